"""DeCache beside plain `pq.read_table` in each task, in one run.

    python -m benchmarks.decache [--scale 1]

Measures k tasks on lineitem, parallel DAGs over the same input (the figure of the Zerrow paper), a
first read and a warm hit beside `pq.read_table`, and what `share_strings` saves. Every measurement
is a process of its own, with a Ray of its own. Prints a report; JSON and a plot per figure go to
`benchmarks/results/`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import decache_first
from benchmarks.hop import environment
from benchmarks.tpch import tpch

RESULTS = Path(__file__).parent / "results"
TASKS = [1, 2, 4, 8, 16, 32]
DAGS = [1, 5, 15, 40]
SIDES = ("plain", "zerrow")
MIB = 1 << 20


def run(measure: str, side: str, path: Path, limit: int, counts: list[int]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.decache_side", "--measure", measure]
    command += ["--side", side, "--path", str(path), "--limit", str(limit)]
    command += ["--counts", *map(str, counts)]
    print(f"{measure} {counts}: {side}", file=sys.stderr, flush=True)
    # Ray makes its workers nicer than everything else on the machine, which measures that.
    settings = {**os.environ, "RAY_worker_niceness": "0"}
    done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_all(path: Path, limit: int) -> dict[str, Any]:
    return {
        "tasks": {side: run("tasks", side, path, limit, TASKS) for side in SIDES},
        "dags": {
            side: {str(n): run("dags", side, path, limit, [n]) for n in DAGS} for side in SIDES
        },
        "first": decache_first.measure(path),
        "strings": run("strings", "zerrow", path, limit, [1]),
    }


def print_report(results: dict[str, Any]) -> None:
    for measure, unit in (("tasks", "tasks"), ("dags", "DAGs")):
        plain, ours = (results[measure][side] for side in SIDES)
        header = (unit, "plain s", "zerrow s", "ratio", "plain MiB", "zerrow MiB", "chunks decoded")
        print(("{:>6}" + "{:>12}" * 5 + "{:>16}").format(*header))
        for count, own in ours.items():
            other = plain.get(count, plain)
            died = "died" in other or "seconds" not in other
            row = [
                count,
                "died" if died else f"{other['seconds']:.2f}",
                f"{own['seconds']:.2f}",
                "" if died else f"{other['seconds'] / own['seconds']:.1f}",
                f"{other['peak_bytes'] / MIB:.0f}",
                f"{own['peak_bytes'] / MIB:.0f}",
                own["chunks_decoded"],
            ]
            print(("{:>6}" + "{:>12}" * 5 + "{:>16}").format(*row))
    decache_first.report(results["first"])
    for name, case in results["strings"].items():
        print(
            f"{name}: {case['seconds']:.2f} s, {case['bytes_stored'] / MIB:.0f} MiB stored, "
            f"half of the rows {case['bytes_of_half_the_rows'] / MIB:.0f} MiB"
        )


def plot(results: dict[str, Any]) -> None:
    """Draw a figure for tasks, one for DAGs, one for single reads, one for shared strings."""
    import matplotlib.pyplot as plt

    for measure, label in (("tasks", "tasks reading lineitem"), ("dags", "parallel DAGs")):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
        for side in SIDES:
            cases = {int(n): c for n, c in results[measure][side].items() if n.isdigit()}
            finished = {n: c for n, c in cases.items() if "seconds" in c}
            left.plot(
                finished.keys(), [n / c["seconds"] for n, c in finished.items()], "o-", label=side
            )
            memory = [c["peak_bytes"] / (1 << 30) for c in cases.values()]
            right.plot(cases.keys(), memory, "o-", label=side)
        left.set(xlabel=label, ylabel="finished per second")
        right.set(xlabel=label, ylabel="peak memory, GiB", ylim=0)
        left.legend()
        figure.tight_layout()
        figure.savefig(RESULTS / f"decache-{measure}.png", dpi=120)
    first = results["first"]
    figure, axes = plt.subplots(figsize=(9, 3.5))
    cases = {f"{k}\n{side}": first[k][side] for k in decache_first.KINDS for side in SIDES}
    cases["warm hit\nzerrow"] = first["warm hit"]
    milliseconds = [[1e3 * seconds for seconds, *_ in reads] for reads in cases.values()]
    axes.boxplot(milliseconds, tick_labels=list(cases))
    axes.tick_params(axis="x", labelsize=7)
    axes.set(ylabel="ms for 16 columns", yscale="log")
    figure.tight_layout()
    figure.savefig(RESULTS / "decache-first.png", dpi=120)
    figure, axes = plt.subplots(figsize=(8, 3.5))
    sharing = results["strings"]
    places = range(len(sharing))
    stored = [case["bytes_stored"] / MIB for case in sharing.values()]
    half = [case["bytes_of_half_the_rows"] / MIB for case in sharing.values()]
    axes.bar([x - 0.2 for x in places], stored, 0.4, label="cached")
    axes.bar([x + 0.2 for x in places], half, 0.4, label="half of the rows, put")
    axes.set_xticks(list(places), sharing.keys(), rotation=15, fontsize=7)
    axes.set(ylabel="MiB")
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "decache-strings.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="1", help="TPC-H scale factor (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=12, help="GiB a run may take")
    options = parser.parse_args()
    path = tpch(options.scale) / "lineitem.parquet"
    results = measure_all(path, int(options.limit * (1 << 30)))
    RESULTS.mkdir(exist_ok=True)
    report = {"environment": environment(), "scale": options.scale, **results}
    (RESULTS / "decache.json").write_text(json.dumps(report, indent=1))
    plot(results)
    print_report(results)


if __name__ == "__main__":
    main()
