"""The control group of a call: its memory limit, its process limit, its peak.

A group is a child of the process's own, so that the process's limits hold for its sandboxes, too;
or of the directory ZERROW_SANDBOX_CGROUP, which was delegated to this user. The kernel charges
memory, that of files in memory included, to the process that touches it first. So an output stays
charged to the call's group until it is freed, and each call has a group of its own: the next call
has its whole limit.
"""

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zerrow_store.cgroups import own_groups
from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.processes import start_time

_PREFIX = "zerrow-sandbox"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Hierarchies:
    """The parents of new groups. With cgroup v2, `memory` and `pids` are the same directory."""

    version: int
    memory: Path
    pids: Path


class Cgroup:
    """The group of one call.

    Raises
    ------
    OSError
        It cannot be made.
    """

    def __init__(self, where: Hierarchies) -> None:
        self._v2 = where.version == 2
        name = f"{_PREFIX}-{os.getpid()}-{start_time(os.getpid())}-{next(_numbers)}"
        self._memory = where.memory / name
        self._pids = where.pids / name
        self._directories = list(dict.fromkeys([self._memory, self._pids]))
        try:
            for directory in self._directories:
                directory.mkdir()
            if not (self._pids / "pids.max").exists():
                raise OSError(errno.ENOTSUP, "no pids controller")
        except BaseException:  # an interrupt, too
            self.remove()
            raise

    def limit(self, *, memory: int, processes: int) -> None:
        """Set the limits: bytes of memory, and the number of processes and threads."""
        if self._v2:
            _write(self._memory / "memory.max", memory)
            _write_if_there(self._memory / "memory.swap.max", 0)
            _write_if_there(self._memory / "memory.oom.group", 1)
        else:
            _write(self._memory / "memory.limit_in_bytes", memory)
            _write_if_there(self._memory / "memory.memsw.limit_in_bytes", memory)
        _write(self._pids / "pids.max", processes)

    def add(self, pid: int) -> None:
        """Move a process into the group. Processes that it forks later are in it, too."""
        for directory in self._directories:
            _write(directory / "cgroup.procs", pid)

    def peak(self) -> int:
        """Return the peak of the group's memory, in bytes; 0 where the kernel does not keep it."""
        name = "memory.peak" if self._v2 else "memory.max_usage_in_bytes"
        try:
            return int((self._memory / name).read_text())
        except FileNotFoundError:
            return 0

    def killed(self) -> bool:
        """Return whether the kernel killed a process of the group for lack of memory."""
        name = "memory.events" if self._v2 else "memory.oom_control"
        for line in (self._memory / name).read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value) > 0
        return False

    def remove(self) -> None:
        """Remove the group. Its processes have ended."""
        for directory in self._directories:
            _remove(directory)


def _remove(directory: Path) -> None:
    for _ in range(200):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # a process is still exiting
            time.sleep(0.005)
        else:
            return


def _write(path: Path, value: int | str) -> None:
    # Not through a text file, which would write the buffered data once more when it is closed.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def _write_if_there(path: Path, value: int) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _write(path, value)


@cache
def hierarchies() -> Hierarchies:
    """Return where this process can make groups. Make one to find out.

    Raises
    ------
    SandboxUnavailableError
        It can make none; the text says why.
    """
    reasons = []
    for candidate in _candidates():
        try:
            _sweep(candidate)
            group = Cgroup(candidate)
            try:
                group.limit(memory=64 << 20, processes=8)
            finally:
                group.remove()
        except OSError as error:
            reasons.append(f"cgroup v{candidate.version} at {candidate.memory}: {error.strerror}")
        else:
            return candidate
    raise SandboxUnavailableError(
        "no cgroup with memory and pids controllers can be made ("
        + ("; ".join(reasons) or "none is mounted")
        + "). Delegate one (systemd: Delegate=yes) and name it in ZERROW_SANDBOX_CGROUP"
    )


def _candidates() -> Iterator[Hierarchies]:
    if given := os.environ.get("ZERROW_SANDBOX_CGROUP"):
        path = Path(given)
        yield Hierarchies(2, path, path)
        return
    own = own_groups()
    mounted = _mounts()
    if "" in own and "" in mounted:
        path = mounted[""] / own[""].lstrip("/")
        _enable(path)
        yield Hierarchies(2, path, path)
    if {"memory", "pids"} <= own.keys() & mounted.keys():
        memory, pids = (mounted[name] / own[name].lstrip("/") for name in ("memory", "pids"))
        yield Hierarchies(1, memory, pids)


def _enable(path: Path) -> None:
    """Enable the controllers for children, as the root and groups without processes can."""
    with contextlib.suppress(OSError):
        _write(path / "cgroup.subtree_control", "+memory +pids")


def _mounts() -> dict[str, Path]:
    """Return the mount point of each controller; that of cgroup v2 is under ""."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        where = Path(left.split(" ")[4])
        if kind == "cgroup2":
            mounts.setdefault("", where)
        elif kind == "cgroup":
            for option in options.split(","):
                mounts.setdefault(option, where)
    return mounts


def _sweep(where: Hierarchies) -> None:
    """Remove the groups of processes that ended without removing them."""
    for parent in {where.memory, where.pids}:
        for directory in parent.glob(f"{_PREFIX}-*-*-*"):
            pid, started = directory.name.removeprefix(f"{_PREFIX}-").split("-")[:2]
            if start_time(int(pid)) != int(started):
                with contextlib.suppress(OSError):  # its last process is still exiting
                    directory.rmdir()
