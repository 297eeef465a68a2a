"""`make bench-pressure`: a DAG whose results are several times the memory, under each policy.

Twelve tables of 64 MiB are made, read once each, and then all read once more, with room for four of
them: what is not read yet is in the way. Functions take from nothing to a second. The plugin runs
it with eviction by "swap" (the store spills to disk), "rollback" (made again) and "adaptive"; plain
Ray with an object store of the same size, which spills by itself. Each is a Ray of its own, in a
memory cgroup with a hard limit of that and what Python, Ray and the functions themselves take: the
pages of spilled files count, too. All that is run with the machine's own disk; with one of 250
MB/s, as machines in a cloud have; in both with arenas in 4 KiB pages; and with its own disk and
arenas in huge pages. Prints tables of seconds (medians) and the most memory, writes JSON and a
plot. Needs root, for the cgroup and the slow disk.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from benchmarks.bookkeeping import measure_apart
from benchmarks.cgroup import run_limited
from benchmarks.hop import environment
from benchmarks.slow_disk import slow_disk

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20
TABLES, TABLE, MEMORY = 12, 64 * MIB, 4 * 64 * MIB + 32 * MIB
# For Ray's own processes, the workers' interpreters and heaps.
OVERHEAD = 1 << 30
LATENCIES = (0.0, 0.1, 0.3, 1.0)
CASES = {f"{latency:g} s": (latency, False) for latency in LATENCIES}
CASES["mixed, 0 and 1 s"] = (1.0, True)
SIDES = ("plain Ray", "swap", "rollback", "adaptive")
# The disk's bytes a second (None: the machine's own), and whether arenas are in huge pages.
MACHINES = {
    "own disk": (None, "off"),
    "disk of 250 MB/s": (250_000_000, "off"),
    "own disk, huge pages": (None, "on"),
}
DISK_SIZE = 32 << 30  # sparse; Ray deletes spilled files late


@ray.remote
def make(n: int, latency: float) -> pa.Table:
    time.sleep(latency)
    return pa.table({"x": pc.add(pa.array(np.arange(TABLE // 8)), n)})


@ray.remote
def total(table: pa.Table, before: int) -> int:
    return before + int(pc.sum(table["x"]).as_py())


def build(latency: float, *, mixed: bool) -> Any:
    """The DAG; if mixed, every second table takes `latency` to make and the others nothing."""
    tables = [make.bind(n, latency if not mixed or n % 2 else 0.0) for n in range(TABLES)]
    node: Any = 0
    for table in (*tables, *tables):
        node = total.bind(table, node)
    return node


def expected() -> int:
    rows = TABLE // 8
    return 2 * sum(rows * (rows - 1) // 2 + n * rows for n in range(TABLES))


def run_once(side: str, latency: float, mixed: bool) -> float:
    """Return the seconds that the DAG takes. Raises AssertionError for a wrong result."""
    node = build(latency, mixed=mixed)
    start = time.perf_counter()
    if side == "plain Ray":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray means to remove `execute`
            result = ray.get(node.execute())
    else:
        from zerrow_ray import dag

        result = ray.get(dag.execute(node, eviction=side, memory=MEMORY, progress=False))
    seconds = time.perf_counter() - start
    assert result == expected(), (side, result)
    return seconds


def start_ray(side: str) -> None:
    """Start the side's Ray, with the memory and the place to spill to that the environment says."""
    options: dict[str, Any] = {"address": "local", "num_cpus": 2, "include_dashboard": False}
    options |= {"log_to_driver": False, "logging_level": "error", "object_store_memory": MEMORY}
    if side == "plain Ray":
        ray.init(**options, object_spilling_directory=os.environ["ZERROW_SPILL_DIR"])
    else:
        import zerrow_ray

        zerrow_ray.init(**options)


def run_side(side: str, repeat: int) -> dict[str, Any]:
    start_ray(side)
    run_once(side, 0.0, False)  # workers, and what functions need, are known after that
    seconds: dict[str, list[float]] = {}
    for label, (latency, mixed) in CASES.items():
        seconds[label] = [run_once(side, latency, mixed) for _ in range(repeat)]
        print(f"  {label}: {statistics.median(seconds[label]):.2f} s", file=sys.stderr, flush=True)
    ray.shutdown()
    return {"seconds": seconds}


def environ(spill_directory: str, huge_pages: str) -> dict[str, str]:
    """Return what a side's process is told."""
    return {
        "ZERROW_MEMORY": str(MEMORY),
        "ZERROW_SPILL_DIR": spill_directory,
        "ZERROW_HUGE_PAGES": huge_pages,
    }


def in_own_group(side: str, repeat: int, spill_directory: str, huge_pages: str) -> dict[str, Any]:
    """Run a side in a process of its own, all of it under the limit."""
    print(side, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.pressure", "--side", side]
    command += ["--repeat", str(repeat)]
    return run_limited(command, MEMORY + OVERHEAD, **environ(spill_directory, huge_pages))


def run_sides(machine: str, repeat: int) -> dict[str, dict[str, Any]]:
    """Run all sides, one after the other. Raises SystemExit if one did not finish."""
    print(f"--- {machine}", file=sys.stderr, flush=True)
    bandwidth, huge_pages = MACHINES[machine]
    with contextlib.ExitStack() as stack:
        directory = (
            stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
            if bandwidth is None
            else str(stack.enter_context(slow_disk(bandwidth, DISK_SIZE)))
        )
        runs = {side: in_own_group(side, repeat, directory, huge_pages) for side in SIDES}
    if failed := [side for side in SIDES if runs[side]["exit"]]:
        raise SystemExit(f"did not finish: {failed}; {runs}")
    return runs


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(MACHINES), figsize=(14, 4), sharey=True)
    labels = [f"{latency:g} s" for latency in LATENCIES]
    for axes, (machine, runs) in zip(all_axes, report["machines"].items(), strict=True):
        for side, run in runs.items():
            medians = [statistics.median(run["seconds"][label]) for label in labels]
            axes.plot(LATENCIES, medians, marker="o", label=side)
        axes.set_xlabel("latency of the functions that make the tables (s)")
        axes.set_ylim(bottom=0)
        axes.set_title(machine)
    all_axes[0].set_ylabel("time of the DAG (s)")
    all_axes[0].legend()
    figure.suptitle(
        f"{TABLES} tables of {TABLE // MIB} MiB in {MEMORY // MIB} MiB, each read twice"
    )
    figure.tight_layout()
    figure.savefig(path)


def print_table(machine: str, runs: dict[str, dict[str, Any]]) -> None:
    print(f"{machine:20}" + "".join(f"{side:>12}" for side in SIDES))
    for label in runs[SIDES[0]]["seconds"]:
        medians = (statistics.median(runs[side]["seconds"][label]) for side in SIDES)
        print(f"{label:20}" + "".join(f"{median:>12.2f}" for median in medians))
    peaks = (runs[side]["peak"] / MIB for side in SIDES)
    print(f"{'peak, MiB':20}" + "".join(f"{peak:>12.0f}" for peak in peaks))
    print(f"{'killed':20}" + "".join(f"{runs[side]['oom_kills']:>12}" for side in SIDES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.side:
        json.dump(run_side(arguments.side, arguments.repeat), sys.stdout)
        return
    machines = {machine: run_sides(machine, arguments.repeat) for machine in MACHINES}
    books = measure_apart()
    report = {"environment": environment(), "memory": MEMORY, "overhead": OVERHEAD}
    report |= {"machines": machines, "bookkeeping": books}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pressure.json").write_text(json.dumps(report, indent=1))
    plot(report, RESULTS / "pressure.svg")
    for machine, runs in machines.items():
        print_table(machine, runs)
    print(f"{books['event_us']:.1f} us for each event of {books['objects']:,} objects")
    print(
        f"{books['decide_1000_ms']:.1f} ms to choose 1000 of them, "
        f"{books['evict_1000_ms']:.1f} ms to drop {books['evicted']:,}"
    )


if __name__ == "__main__":
    main()
