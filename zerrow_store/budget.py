"""How much memory a node's store may hold, and what goes when it is short."""

import os
from pathlib import Path

from zerrow_store.cgroups import memory_groups
from zerrow_store.policy import load_policy
from zerrow_store.sizes import parse_size

HIGH_WATERMARK = 0.9
LOW_WATERMARK = 0.8
"""Shares of the budget."""

_SHARE, _LEAST = 0.6, 0.1
"""Of what the cgroup or machine has: what all its object stores may hold, and at least this one."""


def default_budget(beside: int = 0) -> int:
    """Return the budget in bytes: ZERROW_MEMORY, or 60 % of what the cgroup or machine has, less
    `beside`, but at least 10 %.

    beside: bytes that another object store of the machine, Ray's own, may hold.
    Raises ValueError for a ZERROW_MEMORY that is not a size.
    """
    if text := os.environ.get("ZERROW_MEMORY"):
        return parse_size(text)
    limit = memory_limit()
    return max(int(_SHARE * limit) - beside, int(_LEAST * limit))


def default_eviction() -> str:
    """Return the eviction policy's name: ZERROW_EVICTION, or "adaptive".

    Raises ValueError for a policy that there is not.
    """
    name = os.environ.get("ZERROW_EVICTION") or "adaptive"
    load_policy(name)
    return name


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that this process's cgroup, or the machine, has. root: below which the
    kernel's own file systems lie.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for group in memory_groups(root):
        try:
            text = Path(group.limit).read_text().strip()
        except OSError:
            continue
        # Without a limit: "max" in version 2, a huge number in version 1.
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
