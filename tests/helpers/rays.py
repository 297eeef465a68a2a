"""Ray under test: how it is started, its counters, and the stores of its nodes."""

import os
import time
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import ray._private.services
from ray.experimental.internal_kv import _internal_kv_get

import zerrow_ray
from tests.helpers.processes import descendants, names_of, processes
from tests.helpers.waiting import eventually
from zerrow_ray.cluster import location_key
from zerrow_ray.config import store_name

os.environ.setdefault("RAY_DEDUP_LOGS", "0")

RAY_OPTIONS = {
    "address": "local",
    "num_cpus": 4,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "error",
    "_node_ip_address": "127.0.0.1",
    "object_store_memory": 1 << 30,
}


ROWS = 1_000_000


def make(n: int = 0) -> pa.Table:
    """A table of 8 MB, born in the arena."""
    return pa.table({"x": pc.add(pa.array(np.arange(ROWS)), n)})


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


def total() -> dict[str, Any]:
    """The counters of all nodes together."""
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


def store_pids() -> list[int]:
    """Pids of the node stores that watch this driver's raylets."""
    return _watching("zerrow_store.server.server")


def supervisor_pids() -> list[int]:
    """Pids of those stores' supervisors."""
    return _watching("zerrow_store.server.supervisor")


def _watching(module: str) -> list[int]:
    names = names_of(descendants(os.getpid()))
    raylets = {pid for pid, name in names.items() if name == "raylet"}
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if module not in command or "--watch-pid" not in command:
            continue
        if int(command[command.index("--watch-pid") + 1]) in raylets:
            found.append(process.pid)
    return found


def size_of(ref: ray.ObjectRef) -> int:
    """The bytes that Ray takes an object for: a message's few, if its table is by reference."""
    size: int = ray.experimental.get_object_locations([ref])[ref]["object_size"]
    return size


def on(task: Any, where: str) -> Any:
    """A task that runs on the node with this resource."""
    return task.options(resources={where: 1})


def agents() -> list[int]:
    """The pids of this cluster's transfer agents."""
    stores = [store_name(node["NodeID"]) for node in ray.nodes()]
    return [pid for store in stores for pid in processes("zerrow_ray.agent", store)]


def location_of(node_id: str) -> str | None:
    """Where a node's agent serves; None as long as it does not."""
    location = _internal_kv_get(location_key(node_id))
    return None if location is None else location.decode()
