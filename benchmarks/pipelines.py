"""`make bench-pipelines`: ten TPC-H pipelines at once in less memory than they need.

Each reads its own columns of lineitem and orders, filters, adds columns, joins, and aggregates in
three ways: 20 to 30 times the memory of its results. What they need in all is measured first,
with room for everything; then the stores (or plasma, for plain Ray, which spills by itself) get a
share of it, and all processes together run in a memory cgroup with a hard limit of that and what
Python, Ray and the functions themselves take. Prints pipelines a minute and memory, writes JSON and
a plot. Needs root, for the cgroup.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.cgroup import run_limited
from benchmarks.hop import environment
from benchmarks.tpch import tpch

RESULTS = Path(__file__).parent / "results"
PIPELINES = 10
SHARES = (1.0, 0.5, 0.25, 0.1)
SIDES = ("plain Ray", "swap", "rollback", "lru", "adaptive")
# For Ray's own processes, the workers' interpreters and heaps.
OVERHEAD = 4 << 30

LINES = ["l_orderkey", "l_quantity", "l_extendedprice", "l_discount", "l_tax", "l_suppkey"]
ORDERS = ["o_orderkey", "o_custkey", "o_totalprice"]


def read(path: str, columns: list[str]) -> pa.Table:
    table = pq.read_table(path, columns=columns)
    fields = [
        field.with_type(pa.float64()) if pa.types.is_decimal(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def dear(lines: pa.Table, least: float) -> pa.Table:
    return lines.filter(pc.field("l_extendedprice") > least)


def add_columns(lines: pa.Table) -> pa.Table:
    net = pc.multiply(lines["l_extendedprice"], pc.subtract(1.0, lines["l_discount"]))
    charge = pc.multiply(net, pc.add(1.0, lines["l_tax"]))
    return lines.append_column("net", net).append_column("charge", charge)


def join(lines: pa.Table, orders: pa.Table) -> pa.Table:
    return lines.join(orders, keys="l_orderkey", right_keys="o_orderkey", join_type="inner")


def by_customer(table: pa.Table) -> pa.Table:
    return table.group_by("o_custkey").aggregate([("net", "sum")])


def by_supplier(table: pa.Table) -> pa.Table:
    return table.group_by("l_suppkey").aggregate([("charge", "sum"), ("l_quantity", "sum")])


def summary(customers: pa.Table, suppliers: pa.Table, lines: pa.Table) -> list[float]:
    return [
        pc.sum(customers["net_sum"]).as_py(),
        pc.sum(suppliers["charge_sum"]).as_py(),
        float(lines.num_rows),
    ]


def pipeline(n: int, data: Path) -> Any:
    """The DAG of one pipeline: no two of them do the same."""
    task = {f: ray.remote(f) for f in (read, dear, add_columns, join, by_customer, by_supplier)}
    lines = task[read].bind(str(data / "lineitem.parquet"), LINES)
    orders = task[read].bind(str(data / "orders.parquet"), ORDERS)
    wide = task[add_columns].bind(task[dear].bind(lines, 100.0 * n))
    joined = task[join].bind(wide, orders)
    ends = [task[by_customer].bind(joined), task[by_supplier].bind(joined)]
    return ray.remote(summary).bind(*ends, wide)


def expected(data: Path) -> list[list[float]]:
    """What pyarrow alone makes of it."""
    lines = read(str(data / "lineitem.parquet"), LINES)
    orders = read(str(data / "orders.parquet"), ORDERS)
    outcomes = []
    for n in range(PIPELINES):
        wide = add_columns(dear(lines, 100.0 * n))
        joined = join(wide, orders)
        outcomes.append(summary(by_customer(joined), by_supplier(joined), wide))
    return outcomes


def run_all(side: str, data: Path) -> list[list[float]]:
    nodes = [pipeline(n, data) for n in range(PIPELINES)]
    if side == "plain Ray":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray means to remove `execute`
            refs = [node.execute() for node in nodes]
        return list(ray.get(refs))
    from zerrow_ray import dag

    with ThreadPoolExecutor(PIPELINES) as threads:
        refs = list(threads.map(lambda node: dag.execute(node, progress=False), nodes))
    return list(ray.get(refs))


def start_ray(side: str, memory: int) -> None:
    """Start the side's Ray, with so much memory for results."""
    options: dict[str, Any] = {"address": "local", "num_cpus": 2, "include_dashboard": False}
    options |= {"log_to_driver": False, "logging_level": "error"}
    if side == "plain Ray":
        ray.init(**options, object_store_memory=memory)
    else:
        import zerrow_ray

        zerrow_ray.init(memory=memory, eviction=side, object_store_memory=256 << 20, **options)


def check(side: str, outcomes: list[list[float]], reference: list[list[float]]) -> None:
    """Raise AssertionError if the pipelines' results are not what they should be."""
    for found, wanted in zip(outcomes, reference, strict=True):
        close = [abs(a - b) <= 1e-9 * abs(b) for a, b in zip(found, wanted, strict=True)]
        assert all(close), (side, found, wanted)


def run_side(side: str, memory: int, repeat: int, data: Path) -> dict[str, Any]:
    """One Ray: warm up, then run; seconds of each run, and the most that was held."""
    start_ray(side, memory)
    reference = expected(data)
    warm_up()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        outcomes = run_all(side, data)
        seconds.append(time.perf_counter() - start)
        check(side, outcomes, reference)
    record: dict[str, Any] = {"seconds": seconds}
    if side != "plain Ray":
        import zerrow_ray

        record["stats"] = zerrow_ray.stats().total.as_dict()
    ray.shutdown()
    return record


def warm_up() -> None:
    """Start the workers."""
    nothing = pa.table({name: pa.array([0.0]) for name in ("net_sum", "charge_sum")})
    ray.get([ray.remote(summary).remote(*[nothing] * 3) for _ in range(2)])


def needed(data: Path) -> int:
    """Bytes of all results of all pipelines: what holding everything takes."""
    lines = read(str(data / "lineitem.parquet"), LINES)
    orders = read(str(data / "orders.parquet"), ORDERS)
    total = 0
    for n in range(PIPELINES):
        kept = dear(lines, 100.0 * n)
        wide = add_columns(kept)
        new = wide.nbytes - kept.nbytes
        total += lines.nbytes + orders.nbytes + kept.nbytes + new + join(wide, orders).nbytes
    return int(total)


def in_own_group(side: str, memory: int, repeat: int, scale: str) -> dict[str, Any]:
    """Run a side in a process of its own, all of it under the limit."""
    command = [sys.executable, "-m", "benchmarks.pipelines", "--side", side]
    command += ["--memory", str(memory), "--repeat", str(repeat), "--scale", scale]
    return run_limited(command, memory + OVERHEAD)


def throughput(record: dict[str, Any]) -> float:
    """Pipelines a minute, by the median run; 0 if it did not finish."""
    if not record.get("seconds"):
        return 0.0
    return PIPELINES * 60 / statistics.median(record["seconds"])


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for side in SIDES:
        rates = [throughput(report["runs"][side][str(share)]) for share in SHARES]
        style = "--" if side == "plain Ray" else "-"
        axes.plot([100 * s for s in SHARES], rates, style, marker="o", label=side)
    axes.set_xlabel("memory, % of what all results take")
    axes.set_ylabel("pipelines a minute")
    axes.set_ylim(bottom=0)
    axes.invert_xaxis()
    axes.set_title(
        f"{PIPELINES} TPC-H pipelines at once, {report['needed'] / 1e9:.1f} GB of results"
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scale", default="0.5")
    arguments = parser.parse_args()
    data = tpch(arguments.scale)
    if arguments.side:
        record = run_side(arguments.side, arguments.memory, arguments.repeat, data)
        json.dump(record, sys.stdout)
        return
    total = needed(data)
    runs: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    for share in SHARES:
        for side in SIDES:
            record = in_own_group(side, int(share * total), arguments.repeat, arguments.scale)
            runs[side][str(share)] = record
            spilled = record.get("stats", {}).get("bytes_spilled", 0)
            print(
                f"{share:.0%} {side:10} {throughput(record):6.1f} a minute, peak "
                f"{record['peak'] / 1e9:.1f} GB, OOM kills {record['oom_kills']}, {spilled=}",
                file=sys.stderr,
                flush=True,
            )
    report = {"environment": environment(), "needed": total, "overhead": OVERHEAD, "runs": runs}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pipelines.json").write_text(json.dumps(report, indent=1))
    plot(report, RESULTS / "pipelines.png")
    print(f"pipelines a minute{'':8}" + "".join(f"{side:>12}" for side in SIDES))
    for share in SHARES:
        rates = (throughput(runs[side][str(share)]) for side in SIDES)
        print(
            f"{f'{share:.0%} of {total / 1e9:.1f} GB':26}" + "".join(f"{r:>12.1f}" for r in rates)
        )


if __name__ == "__main__":
    main()
