"""Sandboxes as the host sees them."""

import glob
import os
from pathlib import Path

from zerrow_store.native import _native

elsewhere: set[bytes] = set()


def sandboxes() -> list[int]:
    """Pids of the sandboxes' first processes that this process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if b"zerrow_store.sandbox.zygote" in command and parent == os.getpid():
                found.append(int(entry.name))
    return found


def where() -> str:
    """Run inside: which sandbox this is. The kernel uses a namespace's number again, so together
    with when the sandbox's first process was started."""
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.readlink('/proc/self/ns/pid')} {started}"


def groups(pid: int | None = None) -> list[str]:
    """Control groups that a process, by default this one, has made.

    Any group may go while this looks, which ``glob`` allows and ``Path.rglob`` does not.
    """
    return glob.glob(f"/sys/fs/cgroup/**/zerrow-sandbox-{pid or os.getpid()}-*", recursive=True)


def mapped() -> set[bytes]:
    """Segments that are mapped, without those of other tests of this process."""
    return set(_native.mapped_segments()) - elsewhere
