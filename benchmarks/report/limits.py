"""Cases under a hard limit of memory, and why they cannot run somewhere."""

import os
from pathlib import Path


def no_limits(side: str) -> str:
    """Return why there are no hard limits here, or ""."""
    if os.geteuid() != 0:
        return "a hard limit of memory needs root"
    if not Path("/sys/fs/cgroup/memory/cgroup.procs").exists():
        return "a hard limit of memory needs the memory controller of cgroup v1"
    return ""
