"""`make bench`: what a hop costs, with the plugin and on plain Ray, in one run.

Each side is a Ray of its own, one after the other, with plasma preallocated and touched. Cases are
measured cold (the first time) and warm (median of the rest). Prints a table and writes JSON with
the git revision, versions, kernel, n, medians, spreads, bytes copied and PSS.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.measure import resident_bytes

RESULTS = Path(__file__).parent.parent / "results"
GIB = 1 << 30
PLASMA = 6 * GIB


def table_of(nbytes: int, columns: int = 4, chunks: int = 1) -> pa.Table:
    """Return a table of about `nbytes` of int64, allocated by Arrow's default pool."""
    rows = max(1, nbytes // 8 // columns // chunks)
    base = pa.array(np.arange(rows))
    return pa.table(
        {
            f"c{i}": pa.chunked_array([pc.add(base, i + j) for j in range(chunks)])
            for i in range(columns)
        }
    )


@ray.remote
def identity(value: Any) -> Any:
    return value


class Side:
    """Runs the cases on one side and keeps their figures."""

    def __init__(self, plugin: bool) -> None:
        self.plugin = plugin
        self.cases: dict[str, dict[str, Any]] = {}

    def copied(self) -> int:
        if not self.plugin:
            return 0
        import zerrow_ray

        return int(zerrow_ray.stats().total.bytes_copied)

    def time(self, name: str, action: Callable[[], Any], repeat: int, stored: int = 0) -> None:
        """Time `action`; its result is dropped, and given time to be freed, outside of the clock.

        stored: bytes that plain Ray copies at each call, for the figure of bytes copied.
        """
        seconds = []
        before = self.copied()
        for _ in range(repeat + 1):
            start = time.perf_counter()
            result = action()
            seconds.append(time.perf_counter() - start)
            del result
            time.sleep(0.02)
        cold, *warm = seconds
        self.cases[name] = {
            "cold_ms": cold * 1e3,
            "median_ms": statistics.median(warm) * 1e3,
            "spread_ms": (max(warm) - min(warm)) * 1e3,
            "n": len(warm),
            "bytes_copied": (self.copied() - before) // (repeat + 1) if self.plugin else stored,
            "pss": resident_bytes(),
        }
        print(f"  {name}: {statistics.median(warm) * 1e3:.3f} ms", file=sys.stderr, flush=True)


def touch_plasma() -> None:
    """Write all of plasma once, so that neither side pays for first-touched memory."""
    refs = [ray.put(np.ones(256 << 20, dtype=np.uint8)) for _ in range(PLASMA // (256 << 20) - 4)]
    del refs
    time.sleep(1)


def measure_put_get(side: Side) -> None:
    for label, nbytes, repeat in (
        ("64 KiB", 64 << 10, 100),
        ("512 KiB", 512 << 10, 50),
        ("1 MiB", 1 << 20, 50),
        ("2 MiB", 2 << 20, 50),
        ("4 MiB", 4 << 20, 50),
        ("16 MiB", 16 << 20, 20),
        ("128 MiB", 128 << 20, 10),
        ("1 GiB", GIB, 5),
    ):
        table = table_of(nbytes)
        side.time(f"put {label}", lambda table=table: ray.put(table), repeat, table.nbytes)
        ref = ray.put(table)
        side.time(f"get {label}", lambda ref=ref: ray.get(ref), repeat)
        del ref, table
    wide = table_of(16 << 20, columns=2000)
    side.time("put+get 2000 columns", lambda: ray.get(ray.put(wide)), 10, wide.nbytes)


def measure_identity(side: Side) -> None:
    table = table_of(400 << 20)
    ref = ray.put(table)
    side.time(
        "identity task 400 MiB",
        lambda: ray.wait([identity.remote(ref)], fetch_local=False),
        10,
        table.nbytes,
    )


def measure_chain(side: Side) -> None:
    """Memory that ten tasks in a row over a 2 GiB table take, above what was there before."""
    # What the cases before left warm is given back first.
    time.sleep(3)
    before = resident_bytes()
    table = table_of(2 * GIB)
    refs = [ray.put(table)]
    del table
    # Each task stores the table again in plain Ray, whose plasma holds 6 GiB: one is measured.
    for _ in range(10 if side.plugin else 1):
        refs.append(identity.remote(refs[-1]))
        ray.wait([refs[-1]], fetch_local=False)
    time.sleep(2)
    stored = [ray.experimental.get_object_locations([r])[r]["object_size"] or 0 for r in refs]
    side.cases["chain over 2 GiB"] = {
        "tasks": len(refs) - 1,
        "plasma_bytes": sum(stored),
        "plasma_bytes_per_task": statistics.mean(stored[1:]),
        "pss_growth": resident_bytes() - before,
    }


def measure_workloads(side: Side) -> None:
    """Arrow work in a worker, warm: the arena as the default pool beside Arrow's own."""

    @ray.remote
    def work(name: str, repeat: int) -> list[float]:
        rng = np.random.default_rng(0)
        rows = 2_000_000
        table = pa.table({"k": rng.integers(0, 100_000, rows), "x": rng.random(rows)})
        right = pa.table({"k": np.arange(100_000), "y": np.arange(100_000) * 0.5})
        file = io.BytesIO()
        pq.write_table(table, file)
        action = {
            "filter": lambda: table.filter(pc.field("x") > 0.5),
            "sort": lambda: table.sort_by("x"),
            "join": lambda: table.join(right, "k"),
            "group_by": lambda: table.group_by("k").aggregate([("x", "sum")]),
            "compute": lambda: pc.add(pc.multiply(table["x"], 2), table["k"]),
            "parquet read": lambda: pq.read_table(file),
        }[name]
        seconds = []
        for _ in range(repeat + 2):
            start = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - start)
        return seconds[2:]

    for name in ("filter", "sort", "join", "group_by", "compute", "parquet read"):
        seconds = ray.get(work.remote(name, 15))
        side.cases[f"worker: {name}"] = {
            "median_ms": statistics.median(seconds) * 1e3,
            "spread_ms": (max(seconds) - min(seconds)) * 1e3,
            "n": len(seconds),
        }


def run_side(plugin: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"address": "local", "num_cpus": 2, "include_dashboard": False}
    options |= {"log_to_driver": False, "logging_level": "error", "object_store_memory": PLASMA}
    if plugin:
        import zerrow_ray

        zerrow_ray.init(**options)
    else:
        ray.init(**options)
    ray.get([identity.remote(0) for _ in range(2)])
    touch_plasma()
    side = Side(plugin)
    measure_put_get(side)
    measure_identity(side)
    measure_workloads(side)
    measure_chain(side)
    ray.shutdown()
    return side.cases


def in_own_process(plugin: bool) -> dict[str, Any]:
    print("zerrow" if plugin else "plain Ray", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.hop", "--side", "zerrow" if plugin else "plain"]
    environment = {**os.environ, "RAY_preallocate_plasma_memory": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    cases: dict[str, Any] = json.loads(done.stdout)
    return cases


def environment() -> dict[str, Any]:
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "revision": revision.stdout.strip(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "pyarrow": pa.__version__,
        "cores": os.cpu_count(),
    }


def print_report(plain: dict[str, Any], ours: dict[str, Any]) -> None:
    header = ("case (ms)", "Ray cold", "Ray", "zerrow cold", "zerrow", "Ray/zerrow", "MiB copied")
    print(("{:26}" + "{:>13}" * 6).format(*header))
    for name, case in plain.items():
        own = ours[name]
        if "median_ms" not in case:
            continue
        cold = [f"{c['cold_ms']:.2f}" if "cold_ms" in c else "" for c in (case, own)]
        copied = "/".join(f"{c.get('bytes_copied', 0) / 2**20:.0f}" for c in (case, own))
        ratio = case["median_ms"] / own["median_ms"]
        row = (name, cold[0], f"{case['median_ms']:.2f}", cold[1], f"{own['median_ms']:.2f}")
        print(("{:26}" + "{:>13}" * 6).format(*row, f"{ratio:.2f}", copied))
    for label, cases in (("plain Ray", plain), ("zerrow", ours)):
        chain = cases["chain over 2 GiB"]
        print(
            f"chain over 2 GiB, {label}: {chain['tasks']} tasks, "
            f"{chain['plasma_bytes'] / GIB:.2f} GiB in plasma, "
            f"memory grew by {chain['pss_growth'] / GIB:.2f} GiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["plain", "zerrow"])
    arguments = parser.parse_args()
    if arguments.side:
        json.dump(run_side(arguments.side == "zerrow"), sys.stdout)
        return
    plain, ours = in_own_process(False), in_own_process(True)
    RESULTS.mkdir(exist_ok=True)
    report = {"environment": environment(), "plain": plain, "zerrow": ours}
    (RESULTS / "hop.json").write_text(json.dumps(report, indent=1))
    print_report(plain, ours)


if __name__ == "__main__":
    main()
