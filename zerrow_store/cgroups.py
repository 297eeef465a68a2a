"""The memory cgroups that this process is in, of either version."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class MemoryGroup(NamedTuple):
    """The paths of a memory cgroup's files. Not all have to be there: version 1 has no pressure."""

    limit: str
    usage: str
    stat: str
    pressure: str


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """Return this process's memory cgroups and all above them that can be seen.

    root: below which the kernel's own file systems lie. In a container, what is mounted may be the
    process's own group or one above it.
    """
    mounted = root / "sys/fs/cgroup"
    groups = [
        *_own(root / "proc/self/cgroup", mounted),
        _unified(mounted),
        _unified(mounted / "unified"),
        _version_1(mounted / "memory"),
    ]
    return [group for group in dict.fromkeys(groups) if os.path.exists(group.limit)]


def _own(listing: Path, mounted: Path) -> Iterator[MemoryGroup]:
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        hierarchy, controllers, group = line.split(":", 2)
        below = [parent for parent in [Path(group), *Path(group).parents] if parent != Path("/")]
        for relative in (parent.relative_to("/") for parent in below if parent.is_absolute()):
            if hierarchy == "0":
                yield _unified(mounted / relative)
                yield _unified(mounted / "unified" / relative)
            elif "memory" in controllers.split(","):
                yield _version_1(mounted / "memory" / relative)


def _unified(group: Path) -> MemoryGroup:
    names = ("memory.max", "memory.current", "memory.stat", "memory.pressure")
    return MemoryGroup(*(str(group / name) for name in names))


def _version_1(group: Path) -> MemoryGroup:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "memory.pressure")
    return MemoryGroup(*(str(group / name) for name in names))
