"""The settings of a cluster's stores: set once, by the first driver that sets any."""

import json
import logging
from dataclasses import asdict, dataclass

from zerrow_ray import ray_compat
from zerrow_store.budget import default_budget, default_eviction
from zerrow_store.policy import load_policy
from zerrow_store.sizes import parse_size

logger = logging.getLogger("zerrow_ray")

_KEY = b"zerrow_ray:store_settings"


@dataclass(frozen=True)
class StoreSettings:
    """Settings as a driver gives them.

    memory: the bytes that each node's store may hold; None for what `default_budget` leaves beside
    Ray's own store. eviction: the policy's name; None for ZERROW_EVICTION, or "adaptive".
    """

    memory: int | None = None
    eviction: str | None = None

    def budget(self, rays_own: int) -> int:
        """Return the budget of this node's store. rays_own: the bytes that Ray's store may hold."""
        return default_budget(rays_own) if self.memory is None else self.memory

    def policy(self) -> str:
        """Return the name of the policy."""
        return default_eviction() if self.eviction is None else self.eviction


def store_settings(memory: int | str | None, eviction: str | None) -> StoreSettings:
    """Check a user's settings. Raises ValueError for a bad size or policy."""
    if eviction is not None:
        load_policy(eviction)
    size = parse_size(memory) if isinstance(memory, str) else memory
    if size is not None and size <= 0:
        raise ValueError(f"memory is a positive number of bytes, not {size}")
    return StoreSettings(size, eviction)


def announce(settings: StoreSettings) -> None:
    """Set the cluster's settings, unless an earlier driver has done so."""
    if settings == StoreSettings():
        return
    ray_compat.kv_put(_KEY, json.dumps(asdict(settings)).encode(), overwrite=False)
    if announced() != settings:
        logger.warning("the cluster's stores run already: their settings are %s", announced())


def announced() -> StoreSettings:
    """Return the cluster's settings."""
    text = ray_compat.kv_get(_KEY)
    return StoreSettings() if text is None else StoreSettings(**json.loads(text))
