"""`make bench-guest`: what the plugin costs and gives an ordinary Ray job.

Rounds of two processes, one on plain Ray and one with the plugin on, each with a Ray of its own;
who comes first changes with the round. Prints medians, quartiles and their ratio, and writes JSON
and a plot.
A case of `calls` counts calls a second; all others count seconds.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.hop import RESULTS, environment
from benchmarks.measure import PeakMemory, cpu_seconds, resident_bytes
from benchmarks.sides import Found, ratio_plot, run_rounds

Case = Callable[[], None]

FRESH_WORKERS = 15
CALLS = 1000
PAUSE = 0.02
PLASMA = 4 << 30


class Recorder:
    """One side's figures: seconds, CPU seconds and peak PSS by case."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, float]] = {}

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Record what the block takes."""
        cpu = cpu_seconds()
        start = time.perf_counter()
        with PeakMemory(0.2) as peak:
            yield
            seconds = time.perf_counter() - start
        self.cases[name] = {
            "value": seconds,
            "cpu": cpu_seconds() - cpu,
            "pss": float(peak.bytes),
        }
        self._say(name)

    def calls(self, name: str, call: Callable[[], Any]) -> None:
        """Record how many calls are done in a second, of those that are made at once: the median of
        seven times. Nothing else runs in this process meanwhile: it is what is measured.
        """
        import ray

        cpu, rates = cpu_seconds(), []
        for _ in range(7):
            start = time.perf_counter()
            ray.get([call() for _ in range(CALLS)])
            rates.append(CALLS / (time.perf_counter() - start))
        self.cases[name] = {
            "value": statistics.median(rates),
            "cpu": cpu_seconds() - cpu,
            "pss": float(resident_bytes()),
        }
        self._say(name)

    def repeat(self, name: str, action: Callable[[], Any], count: int, *, pause: float = 0) -> None:
        """Record the median of `count` calls, after one that warms up.

        pause: in seconds, after each one, in which Ray frees what it made.
        """
        times = []
        for _ in range(count + 1):
            start = time.perf_counter()
            result = action()
            times.append(time.perf_counter() - start)
            del result
            time.sleep(pause)
        self.cases[name] = {"value": statistics.median(times[1:])}
        self._say(name)

    def _say(self, name: str) -> None:
        print(f"    {name}: {self.cases[name]['value']:.4g}", file=sys.stderr, flush=True)


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

    def called(function: Any, *values: Any) -> Any:
        return ray.get(function.remote(*values))

    ray.get([empty.remote() for _ in range(100)])
    for name, function in (("fresh worker", fresh), ("fresh worker, pyarrow", fresh_with_arrow)):
        ray.get(function.remote())
        time.sleep(3)  # for the raylet to start workers ahead
        recorder.repeat(name, partial(called, function), FRESH_WORKERS, pause=PAUSE)
    recorder.calls("tasks, calls", empty.remote)
    actor = Actor.remote()
    ray.get(actor.empty.remote())
    recorder.calls("actor, calls", actor.empty.remote)
    recorder.repeat("task and get", partial(called, empty), 1000)
    recorder.repeat("actor call and get", partial(called, actor.empty), 1000)
    recorder.repeat("put 0.1 KB", lambda: ray.put(b"x" * 100), 1000)
    small = np.zeros(25_000)
    recorder.repeat("put 200 KB", lambda: ray.put(small), 300)
    ref = ray.put(small)
    recorder.repeat("put 200 KB, paused", lambda: ray.put(small), 50, pause=PAUSE)
    recorder.repeat("identity 200 KB", partial(called, identity, ref), 50, pause=PAUSE)
    table = pa.table({f"c{i}": pc.add(pa.array(np.arange(12_500_000)), i) for i in range(4)})
    ref = ray.put(table)
    recorder.repeat("identity 400 MB", partial(called, identity, ref), 50, pause=PAUSE)
    large = pa.table({f"c{i}": pc.add(pa.array(np.arange(1 << 25)), i) for i in range(4)})
    recorder.repeat("put 1 GiB, paused", lambda: ray.put(large), 50, pause=PAUSE)


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


def summary(figures: list[dict[str, float]], what: str = "value") -> tuple[float, float, float]:
    """Return the median and the quartiles."""
    values = [each[what] for each in figures]
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def print_report(found: Found) -> None:
    """Print a line a case. The ratio is above 1 where the plugin is better."""
    print(
        f"{'case':24}{'Ray':>10}{'quartiles':>18}{'zerrow':>10}{'quartiles':>18}{'better':>8}",
        end="",
    )
    print(f"{'CPU s':>14}{'PSS MB':>14}")
    for case, sides in found.items():
        plain, zerrow = summary(sides["plain"]), summary(sides["zerrow"])
        ratio = better(case, plain[0], zerrow[0])
        line = f"{case:24}"
        for middle, low, high in (plain, zerrow):
            line += f"{middle:>10.4g}{f'{low:.4g}-{high:.4g}':>18}"
        line += f"{ratio:>8.2f}"
        if "cpu" in sides["plain"][0]:
            cpu = [summary(sides[side], "cpu")[0] for side in ("plain", "zerrow")]
            pss = [summary(sides[side], "pss")[0] / 1e6 for side in ("plain", "zerrow")]
            line += f"{f'{cpu[0]:.1f}/{cpu[1]:.1f}':>14}{f'{pss[0]:.0f}/{pss[1]:.0f}':>14}"
        print(line)


def better(case: str, plain: float, zerrow: float) -> float:
    """Return how many times better the plugin is than plain Ray."""
    return zerrow / plain if case.endswith("calls") else plain / zerrow


def plot(found: Found, path: Path) -> None:
    """Draw how many times better the plugin is, with the quartiles of both sides' rounds."""
    names = list(found)[::-1]
    with ratio_plot(names, "times better than plain Ray (right of the line: better)", path) as axes:
        for line, case in enumerate(names):
            plain, zerrow = summary(found[case]["plain"]), summary(found[case]["zerrow"])
            middle = better(case, plain[0], zerrow[0])
            ends = [better(case, a, b) for a in plain[1:] for b in zerrow[1:]]
            error = [[middle - min(ends)], [max(ends) - middle]]
            axes.errorbar(middle, line, xerr=error, fmt="o", color="tab:blue")


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
        side = [sys.executable, "-m", "benchmarks.guest"]
        side += ["--files", str(files)] if files else []
        found = run_rounds(arguments.rounds, lambda name: [*side, "--side", name])
    RESULTS.mkdir(exist_ok=True)
    name = "guest_data" if arguments.data else "guest"
    report = {"environment": environment(), "load": os.getloadavg(), "cases": found}
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1))
    plot(found, RESULTS / f"{name}.svg")
    print_report(found)


if __name__ == "__main__":
    main()
