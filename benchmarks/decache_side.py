"""One measurement of `benchmarks.decache`, in a process and a Ray of its own; prints JSON.

With `--side zerrow` tasks read with `zerrow_ray.read_parquet`, else with `pq.read_table` on plain
Ray. A run that takes more memory than `--limit` is ended, and says so: it would have died.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.measure import Work, resident_bytes
from benchmarks.plasma_compat import created_bytes

DAG_COLUMNS = ["l_orderkey", "l_partkey", "l_quantity", "l_extendedprice", "l_discount"]
DAG_COLUMNS += ["l_shipdate", "l_commitdate"]
PLASMA = 4 << 30


def reader(side: str) -> Callable[..., pa.Table]:
    if side == "plain":
        return pq.read_table
    import zerrow_ray

    return zerrow_ray.read_parquet


@contextlib.contextmanager
def cluster(side: str) -> Iterator[None]:
    options: dict[str, Any] = {"address": "local", "num_cpus": 2, "include_dashboard": False}
    options |= {"log_to_driver": False, "logging_level": "error", "object_store_memory": PLASMA}
    if side == "plain":
        ray.init(**options)
    else:
        import zerrow_ray

        zerrow_ray.init(**options)
    yield
    ray.shutdown()


def warm_up(side: str, path: str) -> None:
    """Start the workers, and load what they load, with the file's footer only."""

    @ray.remote
    def load() -> None:
        reader(side)(path, columns=[])
        time.sleep(0.5)

    ray.get([load.remote() for _ in range(2)])


def drop(side: str) -> None:
    if side == "zerrow":
        from zerrow_ray.reading import node_client

        client = node_client()
        assert client is not None
        client.cache_drop()


def cache_figures(side: str) -> dict[str, Any]:
    if side == "plain":
        return {}
    from zerrow_ray.reading import node_client

    client = node_client()
    assert client is not None
    entries = client.cache_list()
    return {
        "chunks_decoded": sum(entry.parts for entry in entries),
        "bytes_cached": sum(entry.nbytes for entry in entries),
        "bytes_copied": client.stats().bytes_copied,
    }


def measure_tasks(side: str, path: str, counts: list[int], memory: "Memory") -> dict[str, Any]:
    """k tasks that read the whole file and add a column up: seconds for all of them."""

    @ray.remote
    def add_up() -> float:
        table = reader(side)(path)
        return float(pc.sum(table["l_extendedprice"]).as_py())

    answer = {}
    with cluster(side):
        warm_up(side, path)
        ray.get([add_up.remote() for _ in range(2)])  # neither side pays for first-touched memory
        for count in counts:
            drop(side)
            time.sleep(2)  # what was freed goes back to the kernel
            memory.restart()
            start = time.perf_counter()
            answers = ray.get([add_up.remote() for _ in range(count)])
            seconds = time.perf_counter() - start
            assert len(set(answers)) == 1
            answer[str(count)] = {
                "seconds": seconds,
                "peak_bytes": memory.peak(),
                **cache_figures(side),
            }
            print(side, count, answer[str(count)], file=sys.stderr, flush=True)
    return answer


def measure_dags(side: str, path: str, count: int, memory: "Memory") -> dict[str, Any]:
    """n DAGs at once over one input: one task reads, the next groups by day and sorts."""

    @ray.remote
    def read() -> pa.Table:
        return reader(side)(path, columns=DAG_COLUMNS)

    @ray.remote
    def by_day(table: pa.Table, number: int) -> pa.Table:
        groups = table.group_by("l_shipdate").aggregate([("l_quantity", "sum")])
        return groups.sort_by("l_shipdate").slice(number, 100)

    with cluster(side):
        warm_up(side, path)
        memory.restart()
        work, copied = Work(), created_bytes()
        start = time.perf_counter()
        inputs = [read.remote() for _ in range(count)]
        results = ray.get([by_day.remote(ref, i) for i, ref in enumerate(inputs)])
        seconds = time.perf_counter() - start
        assert all(table.num_rows == 100 for table in results)
        work.look()
        cache = cache_figures(side)
        return {
            "seconds": seconds,
            "peak_bytes": memory.peak(),
            "cpu": work.cpu,
            "faults": work.faults,
            "copied": created_bytes() - copied + cache.get("bytes_copied", 0),
            **cache,
        }


def measure_sharing(path: str) -> dict[str, Any]:
    """Plain strings against one dictionary for the file: memory, time, and a filter's output."""
    import zerrow_store
    from zerrow_store.server.supervisor import Supervisor

    supervisor = Supervisor(f"bench-{os.getpid()}", budget=16 << 30, watch_pid=os.getpid())
    supervisor.start()
    client = zerrow_store.connect(f"bench-{os.getpid()}")
    sharing = {}
    for column in ("l_shipmode", "l_shipinstruct", "l_comment"):
        for shared in (False, True):
            client.cache_drop()
            time.sleep(0.5)
            start = time.perf_counter()
            table = zerrow_store.read_parquet(
                path, columns=["l_orderkey", column], share_strings=shared, client=client
            )
            seconds = time.perf_counter() - start
            stored = client.stats().bytes_stored
            # Every other row, as a filter or a sort would take them.
            rows = pa.array(range(0, table.num_rows, 2), pa.int32())
            text = table.select([column])
            if not shared:  # Arrow takes no rows of string views
                text = text.cast(pa.schema([(column, pa.string())]))
            taken = text.take(rows)
            object_id = client.put(taken)
            sharing[f"{column}, {'shared' if shared else 'plain'}"] = {
                "seconds": seconds,
                "bytes_stored": stored,
                "bytes_of_half_the_rows": client.stats().bytes_stored - stored,
            }
            client.delete(object_id)
            del table, taken, text
    client.close()
    supervisor.stop()
    return sharing


class Memory(threading.Thread):
    """Samples the session's memory, and ends this run, with what it started, beyond a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(daemon=True)
        self._limit = limit
        self._peak = 0

    def restart(self) -> None:
        """Forget the peak."""
        self._peak = 0

    def peak(self) -> int:
        """Return the peak since the last restart, in bytes."""
        return max(self._peak, resident_bytes())

    def run(self) -> None:
        # Seldom: the kernel walks through all of a process's pages for its figure.
        while (now := resident_bytes()) < self._limit:
            self._peak = max(self._peak, now)
            time.sleep(0.5)
        print(json.dumps({"died": True, "peak_bytes": now}), flush=True)
        ray.shutdown()
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["plain", "zerrow"], required=True)
    parser.add_argument("--measure", choices=["tasks", "dags", "strings"], required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[1])
    parser.add_argument("--limit", type=int, required=True, help="bytes")
    options = parser.parse_args()
    memory = Memory(options.limit)
    memory.start()
    if options.measure == "tasks":
        answer = measure_tasks(options.side, options.path, options.counts, memory)
    elif options.measure == "dags":
        answer = measure_dags(options.side, options.path, options.counts[0], memory)
    else:
        answer = measure_sharing(options.path)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
