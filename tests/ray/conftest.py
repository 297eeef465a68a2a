"""One Ray with the plugin on, shared by the tests of a module; every table goes by reference."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import ray._private.services

import zerrow_ray

RAY_OPTIONS = {
    "address": "local",
    "num_cpus": 4,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "error",
    "_node_ip_address": "127.0.0.1",
    "object_store_memory": 1 << 30,
}


def start_patiently(patch: pytest.MonkeyPatch) -> None:
    """Ray gives a node 30 seconds to start, which are not enough on a machine that is very busy."""
    get_node = ray._private.services.get_node

    def get_node_patiently(*arguments: Any) -> Any:
        deadline = time.monotonic() + 240
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    patch.setattr(ray._private.services, "get_node", get_node_patiently)


@pytest.fixture(autouse=True, scope="session")
def _patient_start() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        start_patiently(patch)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A running Ray of this module's own."""
    zerrow_ray.init(**RAY_OPTIONS)
    yield
    ray.shutdown()


@pytest.fixture
def big() -> pa.Table:
    """A table of 160 MB with ten columns, born in the arena."""
    rows = 2_000_000
    column = pa.array(range(1000)).take(pa.array([i % 1000 for i in range(1000)] * (rows // 1000)))
    return pa.table({f"c{i}": pc.add(column, i) for i in range(10)})


def total() -> dict[str, Any]:
    counters: dict[str, Any] = zerrow_ray.stats().total.as_dict()
    return counters


class Moved:
    """What happened to the counters in a `with` block."""

    def __enter__(self) -> "Moved":
        self._before = total()
        eventually(self._is_settled, "what earlier tests dropped is freed")
        return self

    def _is_settled(self) -> bool:
        time.sleep(0.3)  # Ray and the owners tell of the last references by and by
        last, self._before = self._before, total()
        return self._before["bytes_stored"] == last["bytes_stored"]

    def __exit__(self, *exc: object) -> None:
        after = total()
        self.stored = after["bytes_stored"] - self._before["bytes_stored"]
        self.shared = after["bytes_shared"] - self._before["bytes_shared"]
        self.reshared = after["bytes_reshared"] - self._before["bytes_reshared"]
        self.copied = after["bytes_copied"] - self._before["bytes_copied"]


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait until `condition()` holds; a watchdog ends the wait with what was awaited."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def store_pids() -> list[int]:
    """Pids of the node stores that watch this driver's raylets."""
    return _watching("zerrow_store.server.server")


def supervisor_pids() -> list[int]:
    """Pids of those stores' supervisors."""
    return _watching("zerrow_store.server.supervisor")


def _watching(module: str) -> list[int]:
    import psutil

    raylets = {p.pid for p in psutil.Process().children(recursive=True) if p.name() == "raylet"}
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if module not in command or "--watch-pid" not in command:
            continue
        if int(command[command.index("--watch-pid") + 1]) in raylets:
            found.append(process.pid)
    return found


os.environ.setdefault("RAY_DEDUP_LOGS", "0")
