"""The memory budget of a node's store."""

import os

from zerrow_store.config import memory_limit
from zerrow_store.policy import load_policy
from zerrow_store.sizes import size_setting

HIGH_WATERMARK = 0.9
LOW_WATERMARK = 0.8
"""Shares of the budget."""

_SHARE, _LEAST = 0.6, 0.1
"""Of what the cgroup or machine has: what all its object stores may hold, and at least this one."""


def default_budget(beside: int = 0) -> int:
    """Return the budget in bytes: ZERROW_MEMORY, or 60 % of what the cgroup or machine has, less
    `beside`, but at least 10 %.

    beside: bytes that another object store of the machine, Ray's own, may hold.
    Raises ValueError for a ZERROW_MEMORY that is not a size, or 0.
    """
    size = size_setting("ZERROW_MEMORY")
    if size == 0:
        raise ValueError("ZERROW_MEMORY: a store needs more than 0 bytes")
    if size is not None:
        return size
    limit = memory_limit()
    return max(int(_SHARE * limit) - beside, int(_LEAST * limit))


def default_eviction() -> str:
    """Return the eviction policy's name: ZERROW_EVICTION, or "adaptive".

    Raises ValueError, which names the variable, for a policy that there is not.
    """
    name = os.environ.get("ZERROW_EVICTION") or "adaptive"
    try:
        load_policy(name)
    except ValueError as error:
        raise ValueError(f"ZERROW_EVICTION: {error}") from None
    return name
