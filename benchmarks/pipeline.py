"""A DAG of Ray tasks over TPC-H, run with the plugin or on plain Ray.

Run as a program by `benchmarks.demo`: prints one JSON line per task, then one of totals, and writes
the final tables to a folder, for comparison.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.measure import PeakMemory

COUNTERS = ("bytes_shared", "bytes_reshared", "bytes_copied")


def read(path: str) -> pa.Table:
    table = pq.read_table(path)
    # The generator stores its strings as string views, for which Acero has no filter kernel.
    fields = [f.with_type(pa.string()) if f.type == pa.string_view() else f for f in table.schema]
    return table.cast(pa.schema(fields))


def project(table: pa.Table) -> pa.Table:
    dropped = [name for name in ("l_comment", "o_comment", "o_clerk") if name in table.column_names]
    return table.drop_columns(dropped)


def shipped(table: pa.Table) -> pa.Table:
    return table.filter(pc.field("l_shipdate") > pc.scalar(datetime.date(1995, 3, 15)))


def add_columns(table: pa.Table) -> pa.Table:
    one = pa.scalar(1, pa.decimal128(15, 2))
    price, discount = table["l_extendedprice"], table["l_discount"]
    net = pc.multiply(price, pc.subtract(one, discount))
    charge = pc.multiply(net.cast(pa.decimal128(20, 4)), pc.add(one, table["l_tax"]))
    return table.append_column("net", net).append_column("charge", charge)


def join(lines: pa.Table, orders: pa.Table) -> pa.Table:
    return lines.join(orders, keys="l_orderkey", right_keys="o_orderkey", join_type="inner")


def by_priority(table: pa.Table) -> pa.Table:
    groups = table.group_by(["o_orderpriority", "l_shipmode"])
    return groups.aggregate([("net", "sum"), ("l_orderkey", "count")])


def by_flags(table: pa.Table) -> pa.Table:
    groups = table.group_by(["l_returnflag", "l_linestatus"])
    return groups.aggregate([("net", "sum"), ("charge", "sum"), ("l_quantity", "sum")])


def best_orders(table: pa.Table) -> pa.Table:
    revenue = table.group_by("l_orderkey").aggregate([("net", "sum")])
    return revenue.sort_by([("net_sum", "descending"), ("l_orderkey", "ascending")]).slice(0, 100)


class Recorder:
    """Runs stages of tasks one after the other and reports each task's figures."""

    def __init__(self, plugin: bool) -> None:
        self.plugin = plugin
        self.plasma_bytes = 0

    def run(self, function: Callable[..., pa.Table], *inputs: Any, name: str = "") -> Any:
        before = self._counters()
        start = time.perf_counter()
        ref = ray.remote(function).remote(*inputs)
        ray.wait([ref], fetch_local=False)
        seconds = time.perf_counter() - start
        after = self._counters()
        output = ray.get(ref)
        stored = ray.experimental.get_object_locations([ref])[ref]["object_size"] or 0
        self.plasma_bytes += stored
        moved = {key: after[key] - before[key] for key in COUNTERS}
        if not self.plugin:
            moved["bytes_copied"] = stored
        self._print(
            task=name or function.__name__,
            rows=output.num_rows,
            bytes=output.nbytes,
            seconds=seconds,
            **moved,
        )
        return ref

    def _counters(self) -> dict[str, int]:
        if not self.plugin:
            return dict.fromkeys(COUNTERS, 0)
        import zerrow_ray

        total = zerrow_ray.stats().total.as_dict()
        return {key: total[key] for key in COUNTERS}

    def _print(self, **record: Any) -> None:
        print(json.dumps(record), flush=True)


def run_dag(data: Path, recorder: Recorder) -> dict[str, Any]:
    """Run the DAG; returns the refs of its final tables by name."""
    lines = recorder.run(read, str(data / "lineitem.parquet"), name="read lineitem")
    orders = recorder.run(read, str(data / "orders.parquet"), name="read orders")
    lines = recorder.run(project, lines, name="project lineitem")
    orders = recorder.run(project, orders, name="project orders")
    lines = recorder.run(shipped, lines, name="filter lineitem")
    lines = recorder.run(add_columns, lines, name="add columns")
    joined = recorder.run(join, lines, orders)
    consumers = (by_priority, by_flags, best_orders)
    return {f.__name__: recorder.run(f, joined) for f in consumers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--plugin", action="store_true")
    arguments = parser.parse_args()

    ray_options = {"address": "local", "num_cpus": 2, "include_dashboard": False}
    ray_options |= {"log_to_driver": False, "logging_level": "error"}
    if arguments.plugin:
        import zerrow_ray

        zerrow_ray.init(**ray_options)
    else:
        ray.init(**ray_options)
    # Start the workers first: neither side is measured starting Python.
    ray.get([ray.remote(project).remote(pa.table({"x": [1]})) for _ in range(2)])

    recorder = Recorder(arguments.plugin)
    start = time.perf_counter()
    with PeakMemory() as peak:
        refs = run_dag(arguments.data, recorder)
        results = dict(zip(refs, ray.get(list(refs.values())), strict=True))
        seconds = time.perf_counter() - start
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name, table in results.items():
        pq.write_table(table, arguments.results / f"{name}.parquet")
    totals = {"seconds": seconds, "peak_bytes": peak.bytes, "plasma_bytes": recorder.plasma_bytes}
    print(json.dumps({"totals": totals}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
