"""`make bench-guest`: what the plugin costs and gives an ordinary Ray job.

Rounds of two processes, one on plain Ray and one with the plugin on, each with a Ray of its own;
who comes first changes with the round. Prints medians, quartiles and their ratio, and writes JSON.
A case of `calls` counts calls a second; all others count seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.hop import RESULTS, environment
from benchmarks.measure import PeakMemory, session_processes

Case = Callable[[], None]

FRESH_WORKERS = 8
PLASMA = 4 << 30


class Recorder:
    """One side's figures: seconds, CPU seconds and peak PSS by case."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, float]] = {}

    @contextmanager
    def measuring(self, name: str, *, calls: int = 0) -> Iterator[None]:
        """Record what the block takes; `calls` a second instead, if it makes so many."""
        cpu = cpu_seconds()
        start = time.perf_counter()
        with PeakMemory(0.2) as peak:
            yield
            seconds = time.perf_counter() - start
        self.cases[name] = {
            "value": calls / seconds if calls else seconds,
            "cpu": cpu_seconds() - cpu,
            "pss": float(peak.bytes),
        }
        print(f"    {name}: {self.cases[name]['value']:.4g}", file=sys.stderr, flush=True)

    def repeat(self, name: str, action: Callable[[], Any], count: int) -> None:
        """Record the median of `count` calls, after one that warms up."""
        times = []
        for _ in range(count + 1):
            start = time.perf_counter()
            result = action()
            times.append(time.perf_counter() - start)
            del result
            time.sleep(0.02)
        self.cases[name] = {"value": statistics.median(times[1:])}
        print(f"    {name}: {self.cases[name]['value']:.4g}", file=sys.stderr, flush=True)


def cpu_seconds() -> float:
    """Processor time of the whole session, of what has ended since its start included."""
    total = 0.0
    for process in session_processes():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measure_calls(recorder: Recorder) -> None:
    """Calls, puts and hops of a job that has no tables, and of one that has."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import ray

    @ray.remote(max_calls=1)
    def fresh() -> int:
        return 1

    @ray.remote(max_calls=1)
    def fresh_with_arrow() -> int:
        import pyarrow as pa

        return len(pa.array([1]))

    @ray.remote
    def empty() -> None:
        return None

    @ray.remote
    def identity(value: Any) -> Any:
        return value

    @ray.remote
    class Actor:
        def empty(self) -> None:
            return None

    ray.get([empty.remote() for _ in range(100)])
    for name, function in (("fresh worker", fresh), ("fresh worker, pyarrow", fresh_with_arrow)):
        ray.get(function.remote())
        time.sleep(3)  # for the raylet to start workers ahead
        recorder.repeat(name, lambda function=function: ray.get(function.remote()), FRESH_WORKERS)
    with recorder.measuring("tasks, calls", calls=3000):
        ray.get([empty.remote() for _ in range(3000)])
    actor = Actor.remote()
    ray.get(actor.empty.remote())
    with recorder.measuring("actor, calls", calls=3000):
        ray.get([actor.empty.remote() for _ in range(3000)])
    recorder.repeat("task and get", lambda: ray.get(empty.remote()), 300)
    recorder.repeat("actor call and get", lambda: ray.get(actor.empty.remote()), 300)
    recorder.repeat("put 0.1 KB", lambda: ray.put(b"x" * 100), 300)
    small = np.zeros(25_000)
    recorder.repeat("put 200 KB", lambda: ray.put(small), 100)
    ref = ray.put(small)
    recorder.repeat("identity 200 KB", lambda: ray.get(identity.remote(ref)), 50)
    table = pa.table({f"c{i}": pc.add(pa.array(np.arange(12_500_000)), i) for i in range(4)})
    ref = ray.put(table)
    recorder.repeat("identity 400 MB", lambda: ray.get(identity.remote(ref)), 20)
    large = pa.table({f"c{i}": pc.add(pa.array(np.arange(1 << 25)), i) for i in range(4)})
    recorder.repeat("put 1 GiB", lambda: ray.put(large), 10)


def write_files(directory: Path) -> None:
    """Write eight Parquet files, 480 MB in memory, and a small one to join with."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    rows = 1_000_000
    for i in range(8):
        columns = {f"x{j}": random.random(rows) for j in range(5)}
        columns["key"] = random.integers(0, 100, rows)
        columns["id"] = np.arange(i * rows, (i + 1) * rows)
        pq.write_table(pa.table(columns), directory / f"{i}.parquet")
    (directory / "small").mkdir()
    keys = np.arange(100)
    pq.write_table(pa.table({"key": keys, "name": keys * 2}), directory / "small" / "s.parquet")


def measure_data(recorder: Recorder, files: Path) -> None:
    """Ray Data over Parquet files, each case consumed in full."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False

    def read() -> Any:
        return ray.data.read_parquet([str(f) for f in sorted(files.glob("*.parquet"))])

    def add(table: pa.Table) -> pa.Table:
        return table.append_column("sum", pc.add(table["x0"], table["x1"]))

    def scale(frame: Any) -> Any:
        frame["x0"] = frame["x0"] * 2
        return frame

    def chained() -> Any:
        data = read()
        for _ in range(3):
            data = data.map_batches(
                lambda t: t, batch_format="pyarrow", batch_size=None, num_cpus=1
            )
        return data

    def joined() -> Any:
        small = ray.data.read_parquet(str(files / "small"))
        return read().join(small, join_type="inner", num_partitions=4, on=("key",))

    def iterate() -> None:
        for _ in read().iter_batches(batch_format="pyarrow", batch_size=65536):
            pass

    def write() -> None:
        with tempfile.TemporaryDirectory() as out:
            read().write_parquet(out)

    def consume(make: Callable[[], Any]) -> Case:
        def run() -> None:
            for _ in make().iter_internal_ref_bundles():
                pass

        return run

    cases: dict[str, Case] = {
        "data map": consume(lambda: read().map_batches(add, batch_format="pyarrow")),
        "data chain of maps": consume(chained),
        "data pandas map": consume(lambda: read().map_batches(scale, batch_format="pandas")),
        "data sort": consume(lambda: read().sort("x0")),
        "data groupby": consume(lambda: read().groupby("key").mean("x0")),
        "data random_shuffle": consume(lambda: read().random_shuffle(seed=1)),
        "data repartition": consume(lambda: read().repartition(4, shuffle=True)),
        "data join": consume(joined),
        "data iter_batches": iterate,
        "data write_parquet": write,
    }
    for name, case in cases.items():
        with recorder.measuring(name):
            case()


def run_side(plugin: bool, files: Path | None) -> dict[str, dict[str, float]]:
    """Measure one side in this process."""
    import ray

    options = {
        "address": "local",
        "num_cpus": 2,
        "object_store_memory": PLASMA,
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "error",
    }
    if plugin:
        import zerrow_ray

        zerrow_ray.init(**options)
    else:
        ray.init(**options)
    recorder = Recorder()
    if files is None:
        measure_calls(recorder)
    else:
        measure_data(recorder, files)
    ray.shutdown()
    return recorder.cases


def run_rounds(rounds: int, files: Path | None) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Run both sides in processes of their own, in alternating order."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number in range(rounds):
        for side in ("plain", "zerrow") if number % 2 == 0 else ("zerrow", "plain"):
            print(f"  round {number + 1}, {side}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.guest", "--side", side]
            command += ["--files", str(files)] if files else []
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            for case, figures in json.loads(printed.splitlines()[-1]).items():
                found.setdefault(case, {}).setdefault(side, []).append(figures)
    return found


def summary(figures: list[dict[str, float]], what: str = "value") -> tuple[float, float, float]:
    """Return the median and the quartiles."""
    values = [each[what] for each in figures]
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def print_report(found: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Print a line a case. The ratio is above 1 where the plugin is better."""
    print(
        f"{'case':24}{'Ray':>10}{'quartiles':>18}{'zerrow':>10}{'quartiles':>18}{'better':>8}",
        end="",
    )
    print(f"{'CPU s':>14}{'PSS MB':>14}")
    for case, sides in found.items():
        plain, zerrow = summary(sides["plain"]), summary(sides["zerrow"])
        ratio = zerrow[0] / plain[0] if case.endswith("calls") else plain[0] / zerrow[0]
        line = f"{case:24}"
        for middle, low, high in (plain, zerrow):
            line += f"{middle:>10.4g}{f'{low:.4g}-{high:.4g}':>18}"
        line += f"{ratio:>8.2f}"
        if "cpu" in sides["plain"][0]:
            cpu = [summary(sides[side], "cpu")[0] for side in ("plain", "zerrow")]
            pss = [summary(sides[side], "pss")[0] / 1e6 for side in ("plain", "zerrow")]
            line += f"{f'{cpu[0]:.1f}/{cpu[1]:.1f}':>14}{f'{pss[0]:.0f}/{pss[1]:.0f}':>14}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", action="store_true", help="Ray Data instead of calls")
    parser.add_argument("--side", choices=["plain", "zerrow"], help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side == "zerrow", arguments.files)))
        return
    with tempfile.TemporaryDirectory() as directory:
        files = Path(directory) if arguments.data else None
        if files:
            write_files(files)
        found = run_rounds(arguments.rounds, files)
    RESULTS.mkdir(exist_ok=True)
    name = "guest_data" if arguments.data else "guest"
    report = {"environment": environment(), "load": os.getloadavg(), "cases": found}
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1))
    print_report(found)


if __name__ == "__main__":
    main()
