"""What the memory tests share: other processes, and memory looked at from outside."""

import ctypes
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

from zerrow_store.native import _native


def run_python(code: str, **environ: str) -> str:
    """Run code in a fresh interpreter; return what it printed. Its assertions are the test's."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def file_bytes(address: int, size: int) -> bytes:
    """Read what the arena's file holds for an address: what other processes see."""
    found = _native.ArenaProbe.find(address, size)
    assert found is not None
    _, fd, _ = _native.arena_segment()
    return os.pread(fd, size, found[0])


def resident() -> int:
    """Return the bytes that the arena's file really takes, by the kernel's count."""
    _, fd, _ = _native.arena_segment()
    return os.fstat(fd).st_blocks * 512


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test runner's watchdog ends a wait for what never comes."""
    while not condition():
        time.sleep(0.01)


def poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def peek(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)
