"""How a driver switches the plugin on for its job."""

import logging
from collections.abc import Mapping
from typing import Any

import ray

from zerrow_ray import ray_compat
from zerrow_ray.activation import activate
from zerrow_ray.settings import StoreSettings, announce, store_settings
from zerrow_ray.versions import untested
from zerrow_ray.warnings import explain
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.once import warn_once

logger = logging.getLogger("zerrow_ray")

_under_way: StoreSettings | None = None
"""The settings of a `ray.init` under way, whose hooks switch the plugin on before it returns."""


def init(
    *, memory: int | str | None = None, eviction: str | None = None, **ray_init_arguments: Any
) -> Any:
    """Start or join Ray with the plugin on. Takes the arguments of `ray.init`, and returns its
    context, which shuts Ray down at the end of a `with` block.

    memory: what each node's store may hold, in bytes or as a text such as "8GiB"; by default
        ZERROW_MEMORY, or 60 % of the memory of the node or its cgroup, less what Ray's own store
        may hold (`object_store_memory`).
    eviction: the policy for a full store: "adaptive", "swap", "rollback", "lru", "none", or
        "module:Class" for a policy of your own (`zerrow_store.policy`).
    Both apply to all stores of the cluster, and the first driver that sets them decides.
    Raises ValueError for a bad size or policy, before Ray is started.
    """
    global _under_way
    settings = _under_way = store_settings(memory, eviction)
    try:
        context = ray.init(**ray_init_arguments)
    finally:
        _under_way = None
    _register(settings)
    return context


def register(*, memory: int | str | None = None, eviction: str | None = None) -> None:
    """Switch the plugin on in a driver that has called `ray.init` already.

    Workers that run functions exported earlier can read tables by reference all the same. memory
    and eviction: as for `init`. Raises RuntimeError if Ray is not initialized, ValueError for a bad
    size or policy.
    """
    settings = store_settings(memory, eviction)
    if not ray.is_initialized():
        raise RuntimeError("zerrow_ray.register() needs a running Ray: call ray.init() first")
    _register(settings)


def runtime_env_hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """Switch the plugin on in the driver that is starting; return `runtime_env` unchanged.

    This is for `RAY_RUNTIME_ENV_HOOK`, which Ray calls in the driver during `ray.init`.
    """
    global _under_way
    if _under_way is None:
        _under_way = StoreSettings()
    ray_compat.after_init(_register_after_init)
    return dict(runtime_env or {})


def worker_setup() -> None:
    """Switch the plugin on in a worker, as Ray's `worker_process_setup_hook`.

    This is rarely needed: the functions that a driver with the plugin exports do the same.
    """
    activate()


def _register(settings: StoreSettings) -> None:
    if ray_compat.is_client():
        warn_once(
            logger,
            "tables take Ray's own path: a driver that is connected by ray:// shares no memory "
            "with the cluster; run the driver on a node of it, or submit it as a job",
        )
        return
    if not activate():
        return
    if found := untested():
        warn_once(logger, f"zerrow_ray is not tested with {', '.join(found)}")
    from zerrow_ray.session import current_session

    announce(settings)
    try:
        current_session()
    except StoreUnavailableError as error:
        explain(error)


def _register_after_init() -> None:
    # Ray calls each post-init hook at every ray.init of the process, even one without the plugin.
    global _under_way
    settings, _under_way = _under_way, None
    if settings is None:
        return
    try:
        _register(settings)
    except Exception:
        logger.exception("zerrow_ray is off in this driver: tables take Ray's own path")
