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
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[19])
