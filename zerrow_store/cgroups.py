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
        *_own(root, mounted),
        _unified(mounted),
        _unified(mounted / "unified"),
        _version_1(mounted / "memory"),
    ]
    return [group for group in dict.fromkeys(groups) if os.path.exists(group.limit)]


def limit_of(group: MemoryGroup) -> int:
    """Return how many bytes a memory cgroup may have; a huge number if it has no limit."""
    try:
        text = Path(group.limit).read_text().strip()
    except OSError:
        text = ""
    # Without a limit: "max" in version 2, a huge number in version 1.
    return int(text) if text.isdigit() else 1 << 62


def own_groups(root: Path = Path("/")) -> dict[str, str]:
    """Return the path of this process's group for each controller. Version 2's is under ""."""
    groups: dict[str, str] = {}
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _own(root: Path, mounted: Path) -> Iterator[MemoryGroup]:
    own = own_groups(root)
    for relative in _with_parents(own.get("", "")):
        yield _unified(mounted / relative)
        yield _unified(mounted / "unified" / relative)
    for relative in _with_parents(own.get("memory", "")):
        yield _version_1(mounted / "memory" / relative)


def _with_parents(group: str) -> Iterator[Path]:
    for parent in (Path(group), *Path(group).parents):
        if parent.is_absolute() and parent != Path("/"):
            yield parent.relative_to("/")


def _unified(group: Path) -> MemoryGroup:
    names = ("memory.max", "memory.current", "memory.stat", "memory.pressure")
    return MemoryGroup(*(str(group / name) for name in names))


def _version_1(group: Path) -> MemoryGroup:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "memory.pressure")
    return MemoryGroup(*(str(group / name) for name in names))
