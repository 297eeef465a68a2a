"""Processes of this machine, as /proc shows them."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from tests.helpers.waiting import wait_until

MEMORY_FILES = ("/memfd:", "/zerrow (deleted)")
"""How the kernel names memory files: memfds, and those in huge pages."""


def processes(*words: str) -> list[int]:
    """Return the pids of the processes whose command lines have all these words.

    Not of one that has its parent's: it was forked just now, and runs another program soon.
    """
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if all(word in command for word in words):
                found[process.pid] = process.ppid(), command
    return [
        pid
        for pid, (parent, command) in found.items()
        if parent not in found or found[parent][1] != command
    ]


def memory_files(pid: int) -> list[str]:
    """Return the paths in /proc of a process's memory files: memfds, and those in huge pages.

    Not the page in which a server counts its changes.
    """
    folder = f"/proc/{pid}/fd"
    links = {path: _link(path) for path in (f"{folder}/{fd}" for fd in os.listdir(folder))}
    return [
        path
        for path, link in links.items()
        if link.startswith(MEMORY_FILES) and "zerrow-changes" not in link
    ]


def spilled_files(server: int) -> list[str]:
    """Return the paths in /proc of the files that a store's server has spilled to."""
    folder = f"/proc/{server}/fd"
    links = {path: _link(path) for path in (f"{folder}/{fd}" for fd in os.listdir(folder))}
    return [
        path
        for path, link in links.items()
        if "(deleted)" in link and not link.startswith(MEMORY_FILES)
    ]


def descriptors(pid: int | None = None) -> int:
    """Return how many descriptors a process has open, by default this one."""
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))


def mappings(pid: int) -> int:
    """Return how many ranges of memory files a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return sum(maps.count(name) for name in MEMORY_FILES)


def kill(pid: int) -> None:
    """`kill -9`; returns when the process is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))


def halt(pid: int) -> None:
    """Stop a process; returns when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    states = Path(f"/proc/{pid}/task")
    wait_until(
        lambda: all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
            for task in states.iterdir()
        )
    )


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Pids of a process's descendants, each after its parent."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def names_of(pids: list[int]) -> dict[int, str]:
    """The names of those processes that have not ended meanwhile."""
    names = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            names[pid] = psutil.Process(pid).name()
    return names


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
