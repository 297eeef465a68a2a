"""How much memory a node's store may hold, and what goes when it is short."""

import os
from pathlib import Path

from zerrow_store.node.policy import load_policy
from zerrow_store.sizes import parse_size

_SHARE = 0.6
# A cgroup without a limit: "max" in version 2, a huge number in version 1.
_LIMITS = ("memory.max", "unified/memory.max", "memory/memory.limit_in_bytes")


def default_budget() -> int:
    """Return the budget in bytes: ZERROW_MEMORY, or 60 % of what the cgroup or machine has.

    Raises ValueError for a ZERROW_MEMORY that is not a size.
    """
    if text := os.environ.get("ZERROW_MEMORY"):
        return parse_size(text)
    return int(_SHARE * memory_limit())


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
    mounted = root / "sys/fs/cgroup"
    for path in [*_own_limits(root / "proc/self/cgroup", mounted), *map(mounted.joinpath, _LIMITS)]:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def _own_limits(groups: Path, mounted: Path) -> list[Path]:
    """The limit files of this process's cgroup and all above it, in both versions."""
    paths = []
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        hierarchy, controllers, group = line.split(":", 2)
        below = [parent for parent in [Path(group), *Path(group).parents] if parent != Path("/")]
        relative = [parent.relative_to("/") for parent in below if parent.is_absolute()]
        if hierarchy == "0":
            roots, name = [mounted, mounted / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = [mounted / "memory"], "memory.limit_in_bytes"
        else:
            continue
        paths += [root / part / name for root in roots for part in relative]
    return paths
