"""Sandboxes end with the module that used them, and then nothing of them is left."""

import gc
import glob
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests import arrow_strategies
from zerrow_store import memory, sandbox
from zerrow_store.native import _native

_elsewhere: set[bytes] = set()


@pytest.fixture(autouse=True, scope="package")
def _extension_type() -> Iterator[None]:
    _elsewhere.update(_native.mapped_segments())
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left() -> Iterator[None]:
    memory.start()
    before = _native.arena_stats()["pinned"]
    yield
    sandbox.close()
    gc.collect()
    eventually(lambda: not sandboxes(), "all sandboxes have ended")
    eventually(lambda: not groups(), "all control groups are gone")
    eventually(lambda: _native.arena_stats()["pinned"] <= before, "nothing more is pinned")


@pytest.fixture
def table() -> pa.Table:
    """A table of 800 kB, born in the arena."""
    column = pc.add(pa.array(np.arange(50_000)), 0)
    return pa.table({"x": column, "y": pc.multiply(column, 2)})


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


def below(pid: int) -> list[int]:
    """Pids of a process's descendants, each after its parent."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def groups(pid: int | None = None) -> list[str]:
    """Control groups that a process, by default this one, has made.

    Any group may go while this looks, which ``glob`` allows and ``Path.rglob`` does not.
    """
    return glob.glob(f"/sys/fs/cgroup/**/zerrow-sandbox-{pid or os.getpid()}-*", recursive=True)


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait until `condition()` holds; a watchdog ends the wait with what was awaited."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def mapped() -> set[bytes]:
    """Segments that are mapped, without those of other tests of this process."""
    return set(_native.mapped_segments()) - _elsewhere


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    return threading.active_count()
