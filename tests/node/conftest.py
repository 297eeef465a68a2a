"""A store of each test's own, with its supervisor in this process."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import zerrow_store
from tests import arrow_strategies
from zerrow_store.native import _native
from zerrow_store.server.supervisor import Supervisor

BUDGET = 1 << 30


@pytest.fixture(autouse=True, scope="package")
def _extension_type() -> Iterator[None]:
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def supervisor(name: str, tmp_path: Path) -> Iterator[Supervisor]:
    running = Supervisor(name, budget=BUDGET, log=tmp_path / "log", watch_pid=os.getpid())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(name: str, supervisor: Supervisor) -> Iterator[zerrow_store.Client]:
    connected = zerrow_store.connect(name)
    yield connected
    connected.close()


def table(rows: int = 100_000, start: int = 0) -> pa.Table:
    """A table of two int64 columns, born in the arena."""
    base = pa.array(range(start, start + rows), pa.int64())
    return pa.table({"x": base, "y": pc.multiply(base, 2)})


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait until `condition()` holds; a watchdog ends the wait with what was awaited."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def pinned() -> int:
    return _native.arena_stats()["pinned"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
