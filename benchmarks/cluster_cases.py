"""One side of `benchmarks.cluster`: a driver's cases over the nodes of a running cluster.

Prints, as the last line, a JSON object of each case's figures. Fan-out and fan-in are those of
Ray's own `release/benchmarks/object_store` (`test_object_store.py`, `test_large_objects.py`), with
tables in place of NumPy arrays and fewer, smaller ones: an actor on each node is there before the
clock starts, and says how long is what it got. Each case runs twice. Its first run is in memory
that nobody has used for a while: on a virtual machine whose host has to give it anew, that costs
more than to move the bytes, all the more in huge pages. The second is in what the first has left.
"""

import argparse
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.hop import table_of
from benchmarks.measure import proportional_bytes

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_SAMPLE_SECONDS = 0.5
_SETTLE_SECONDS = 1.0
_ROWS_OF_DATA = 1 << 23


class Probe:
    """What a node's processes have used: those of the network namespace of the one that asks."""

    def __init__(self) -> None:
        self._namespace = os.readlink("/proc/self/ns/net")
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread()

    def begin(self) -> dict[str, float]:
        """Begin to sample memory; returns what was used until now.

        Sampling takes processor time, so a short case is between two samples.
        """
        self._peak, self._done = self._memory(), threading.Event()
        self._thread = threading.Thread(target=self._sample, args=[self._done])
        self._thread.start()
        return self._used()

    def end(self) -> dict[str, float]:
        """End the samples; returns what was used until now, and the most memory."""
        self._done.set()
        self._thread.join()
        used = self._used()
        return used | {"peak_memory": max(self._peak, self._memory())}

    def _used(self) -> dict[str, float]:
        received, sent = 0, 0
        for name, counters in psutil.net_io_counters(pernic=True).items():
            if name != "lo":
                received, sent = received + counters.bytes_recv, sent + counters.bytes_sent
        cpu = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
        return {"received": received, "sent": sent, "cpu_seconds": cpu}

    def _sample(self, done: threading.Event) -> None:
        while not done.wait(_SAMPLE_SECONDS):
            self._peak = max(self._peak, self._memory())

    def _memory(self) -> int:
        return sum(map(proportional_bytes, self._processes()))

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/ns/net") == self._namespace:
                    yield process


class Site:
    """A process on a node, which takes tables, and makes them."""

    def start(self) -> None:
        """Be there."""

    def take(self, *tables: pa.Table) -> int:
        return sum(table.num_rows for table in tables)

    def make(self, nbytes: int) -> pa.Table:
        return table_of(nbytes)

    def make_parts(self, nbytes: int, count: int) -> Any:
        parts = [table_of(nbytes // count) for _ in range(count)]
        return parts if count > 1 else parts[0]


class Cluster:
    """The nodes: this driver's first, then the others, each with a site and a probe."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, Any]] = {}
        here = ray.get_runtime_context().get_node_id()
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        nodes = [here, *sorted(set(alive) - {here})]
        self._probes = [_place(Probe, node, max_concurrency=2) for node in nodes]
        self.sites = [_place(Site, node) for node in nodes]
        ray.get([site.start.remote() for site in self.sites])
        first = ray.put(table_of(16 * MIB))  # which starts the plugin's stores
        ray.get([site.take.remote(first) for site in self.sites])

    @property
    def others(self) -> list[Any]:
        """Return the sites of the other nodes."""
        return self.sites[1:]

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Record what the block takes."""
        time.sleep(_SETTLE_SECONDS)  # Ray tells of the last references by and by
        before = ray.get([probe.begin.remote() for probe in self._probes])
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        after = ray.get([probe.end.remote() for probe in self._probes])
        nodes = [
            {what: now[what] - then.get(what, 0) for what in now}
            for then, now in zip(before, after, strict=True)
        ]
        totals = {what: sum(node[what] for node in nodes) for what in nodes[0]}
        self.cases[name] = totals | {
            "seconds": seconds,
            "source_sent": nodes[0]["sent"],
            "nodes": nodes,
        }


def _place(cls: type, node: str, **options: Any) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(cls).options(num_cpus=0, scheduling_strategy=strategy, **options).remote()


def _twice(name: str) -> tuple[str, str]:
    return f"{name}, first", name


def _points(cluster: Cluster, options: argparse.Namespace) -> None:
    """One object to one node, by size."""
    receiver = cluster.others[0]
    for size in options.sizes:
        count = max(1, min(20, 64 * MIB // size))  # which makes a time that is not all chance
        for name in _twice(f"to one, {count} x {size:,}"):
            refs = [ray.put(table_of(size)) for _ in range(count)]
            with cluster.measuring(name):
                for ref in refs:
                    ray.get(receiver.take.remote(ref))
            del refs, ref


def _fan_out(cluster: Cluster, options: argparse.Namespace) -> None:
    """One object to many nodes at once."""
    table = table_of(int(GIB * options.scale))
    for count in 2, 4, 8:
        for name in _twice(f"one to {count}") if count <= len(cluster.others) else ():
            ref = ray.put(table)
            with cluster.measuring(name):
                taken = ray.get([site.take.remote(ref) for site in cluster.others[:count]])
            assert taken == [table.num_rows] * count
            del ref


def _fan_in(cluster: Cluster, options: argparse.Namespace) -> None:
    """An object of each node to one node."""
    size = int(GIB * options.scale) // 8
    for name in _twice(f"{len(cluster.others)} to one"):
        with cluster.measuring(name):
            tables = ray.get([site.make.remote(size) for site in cluster.others])
        assert len(tables) == len(cluster.others)
        del tables


def _shuffle(cluster: Cluster, options: argparse.Namespace) -> None:
    """A part of each node's object to each node."""
    size, count = int(GIB * options.scale) // 8, len(cluster.sites)
    sites = cluster.sites
    for name in _twice(f"all to all, {count} nodes"):
        with cluster.measuring(name):
            made = [
                site.make_parts.options(num_returns=count).remote(size, count) for site in sites
            ]
            parts = [refs if count > 1 else [refs] for refs in made]
            taken = [site.take.remote(*(refs[n] for refs in parts)) for n, site in enumerate(sites)]
            ray.get(taken)
        del made, parts, taken


def _data(cluster: Cluster, options: argparse.Namespace) -> None:
    """Ray Data's sort and random_shuffle, consumed in full."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = int(_ROWS_OF_DATA * options.scale)

    def consume(data: Any) -> None:
        for _ in data.iter_internal_ref_bundles():
            pass

    def read() -> Any:
        return ray.data.range(rows, override_num_blocks=2 * len(cluster.sites))

    for case, make in (
        ("Data sort", lambda: read().sort("id", descending=True)),
        ("Data random_shuffle", lambda: read().random_shuffle(seed=1)),
    ):
        for name in _twice(case):
            with cluster.measuring(name):
                consume(make())


CASES: dict[str, Callable[[Cluster, argparse.Namespace], None]] = {
    "points": _points,
    "fan_out": _fan_out,
    "fan_in": _fan_in,
    "shuffle": _shuffle,
    "data": _data,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--await-nodes", type=int, help="end well if there are so many nodes")
    parser.add_argument("--side", choices=["plain", "zerrow"], default="plain")
    parser.add_argument("--cases", nargs="+", choices=list(CASES))
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--scale", type=float)
    options = parser.parse_args()
    arguments = {"address": options.address, "log_to_driver": False, "logging_level": "error"}
    if options.side == "zerrow":
        import zerrow_ray

        zerrow_ray.init(**arguments)
    else:
        ray.init(**arguments)
    if options.await_nodes:
        found = sum(node["Alive"] for node in ray.nodes())
        raise SystemExit(found < options.await_nodes)
    cluster = Cluster()
    for name in options.cases:
        CASES[name](cluster, options)
    ray.shutdown()
    print(json.dumps(cluster.cases))


if __name__ == "__main__":
    main()
