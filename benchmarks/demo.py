"""`make demo`: the same DAG of Ray tasks with the plugin and on plain Ray, side by side."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.tpch import DATA, tpch

SIDES = ("plain Ray", "zerrow")


def run_side(side: str, data: Path, results: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Run the pipeline in a process of its own; returns its tasks and its totals."""
    command = [sys.executable, "-m", "benchmarks.pipeline", "--data", str(data)]
    command += ["--results", str(results)] + (["--plugin"] if side == "zerrow" else [])
    print(f"\nRunning on {side}", flush=True)
    tasks: list[dict[str, Any]] = []
    totals: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            record = json.loads(line)
            if "totals" in record:
                totals = record["totals"]
            else:
                tasks.append(record)
                print(f"  {len(tasks):2d}/10 {record['task']}", flush=True)
    if process.returncode != 0:
        raise SystemExit(f"the run on {side} failed with exit code {process.returncode}")
    return tasks, totals


def mib(size: float) -> str:
    return f"{size / 2**20:,.1f}"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        first, *rest = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join([first, *rest]))


def print_tasks(side: str, tasks: list[dict[str, Any]]) -> None:
    print(f"\n{side}, per task (MiB)")
    header = ["task", "rows", "output", "shared", "reshared", "copied", "seconds"]
    keys = ("bytes", "bytes_shared", "bytes_reshared", "bytes_copied")
    print_table(
        header,
        [
            [task["task"], f"{task['rows']:,}"]
            + [mib(task[key]) for key in keys]
            + [f"{task['seconds']:.3f}"]
            for task in tasks
        ],
    )


def results_differ(results: Path) -> list[str]:
    """Return the names of final tables that are not the same on both sides, whatever the row
    order.
    """
    different = []
    for path in sorted((results / SIDES[0]).glob("*.parquet")):
        plain, ours = (pq.read_table(results / side / path.name) for side in SIDES)
        keys = [(name, "ascending") for name in plain.column_names]
        if not ours.sort_by(keys).equals(plain.sort_by(keys)):
            different.append(path.stem)
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="0.1", help="TPC-H scale factor")
    arguments = parser.parse_args()
    data = tpch(arguments.scale)
    results = DATA.parent / "results" / "demo"
    sides = {side: run_side(side, data, results / side) for side in SIDES}

    for side, (tasks, _) in sides.items():
        print_tasks(side, tasks)
    print("\nTotals")
    print_table(
        ["", "seconds", "peak memory MiB", "plasma MiB", "copied MiB"],
        [
            [
                side,
                f"{totals['seconds']:.2f}",
                mib(totals["peak_bytes"]),
                mib(totals["plasma_bytes"]),
                mib(sum(task["bytes_copied"] for task in tasks)),
            ]
            for side, (tasks, totals) in sides.items()
        ],
    )
    print("\nPeak memory is that of all processes, each page counted once.")
    if different := results_differ(results):
        print(f"The results DIFFER in {', '.join(different)}.")
        return 1
    print("The results of both runs are equal.")
    print(
        "\nNext: make demo SF=1, or put `import zerrow_ray; zerrow_ray.init()` in your own script."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
