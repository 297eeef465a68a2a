"""Processes, as the kernel shows them."""

import os
import resource
from pathlib import Path


def allow_many_descriptors() -> None:
    """Let this process have as many as it may: server and supervisor keep one of every segment."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd, readable when the process ends; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def start_time(pid: int) -> int:
    """Return a process's start in clock ticks after boot (proc(5), field 22); 0 if it is gone."""
    return _state_and_start(pid)[1]


def is_running(pid: int, started: int) -> bool:
    """Whether the process that was started then has not ended yet."""
    state, start = _state_and_start(pid)
    return start == started and state not in "ZX"


def _state_and_start(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[19])
