"""Runs cases, the sides alternately, and keeps one JSON file for each.

A full run's are in `benchmarks/results/report/`, a quick one's in `results/report/`. A case that
has a file of this revision is not run again.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.cgroup import run_limited
from benchmarks.hop import environment
from benchmarks.report.case import Case, Figures, Place
from zerrow_store.config import machine_memory

ROOT = Path(__file__).parents[2]
FULL_RESULTS = ROOT / "benchmarks" / "results" / "report"
QUICK_RESULTS = ROOT / "results" / "report"

Runs = dict[str, dict[str, list[Figures]]]
"""By point and side, the figures of each round."""


class NoPlaceError(Exception):
    """What a part needs cannot be had on this machine: a slow disk, a swap file."""


def directory(full: bool) -> Path:
    """Return where the files of a run are."""
    return FULL_RESULTS if full else QUICK_RESULTS


@cache
def revision() -> str:
    """Return the last commit that changed anything but results and texts; with a plus sign, and
    never the same as a file's, if something is changed since.
    """
    what = ["--", ".", ":!benchmarks/results", ":!docs", ":!*.md"]
    commit = _git("log", "-1", "--format=%H", *what)
    return commit + ("+" if _git("status", "--porcelain", *what) else "")


def _git(*command: str) -> str:
    return subprocess.run(
        ["git", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def load(case: Case, full: bool) -> dict[str, Any] | None:
    """Return what is known of a case, of whichever revision; None if it has never been run."""
    path = directory(full) / f"{case.name}.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record


def is_done(record: dict[str, Any] | None) -> bool:
    """Whether a case need not be run again: no change is known since, and nothing failed."""
    if record is None or "+" in revision() or record["failed"]:
        return False
    same: bool = record["environment"]["revision"] == revision()
    return same


def run(case: Case, full: bool) -> dict[str, Any]:
    """Run all rounds of a case, and write its file."""
    case.prepare(full)
    missing = {side: why for side in case.sides if (why := case.missing(side))}
    sides = [side for side in case.sides if side not in missing]
    runs: Runs = {}
    failed: dict[str, str] = {}
    died: dict[str, str] = {}
    load_before, start = os.getloadavg(), time.time()
    for number in range(case.rounds if full else case.quick_rounds):
        for part in case.parts(full):
            for side in _in_turn(sides, number):
                where = f"{side}, {part}" if part else side
                print(f"  round {number + 1}: {where}", file=sys.stderr, flush=True)
                try:
                    outcome = _run_side(case, side, part, full)
                except NoPlaceError as error:
                    missing[where] = str(error)
                    continue
                for point, figures in outcome.get("points", {}).items():
                    runs.setdefault(point, {}).setdefault(side, []).append(figures)
                if "points" not in outcome:
                    if outcome.get("died") or outcome.get("oom_kills"):
                        died[where] = "took more memory than its limit"
                    else:
                        failed[where] = f"exit status {outcome['exit']}"
    record = {
        "case": case.name,
        "full": full,
        "environment": _environment() | {"load_before": load_before, "started": start},
        "seconds": time.time() - start,
        "missing": missing,
        "failed": failed,
        "died": died,
        "points": {
            point: {side: _summary(found) for side, found in by_side.items()}
            for point, by_side in runs.items()
        },
        "runs": runs,
    }
    path = directory(full) / f"{case.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1))
    return record


def _in_turn(sides: list[str], number: int) -> list[str]:
    """Each side comes first in turn, and after each other one about as often as before it."""
    ordered = sides if number % 2 == 0 else sides[::-1]
    first = number // 2 % max(1, len(sides))
    return ordered[first:] + ordered[:first]


def _run_side(case: Case, side: str, part: str, full: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        try:
            place = stack.enter_context(case.place(side, part, full))
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoPlaceError(str(error)) from error
        command = [place.python, "-m", "benchmarks.report.side"]
        command += [case.measure.__module__, case.measure.__name__]
        command += ["--side", side, "--part", part] + (["--full"] if full else [])
        if place.limit is None:
            return _run_free(command, place)
        outcome = run_limited(command, place.limit, **place.environ)
        for figures in outcome.get("points", {}).values():
            figures |= {"limited_peak": outcome["peak"], "oom_kills": outcome["oom_kills"]}
        return outcome


def _run_free(command: list[str], place: Place) -> dict[str, Any]:
    environ = os.environ | place.environ
    done = subprocess.run(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return {**record, "exit": done.returncode}


def _summary(found: list[Figures]) -> dict[str, float]:
    """Medians of all figures, and the quartiles of seconds."""
    names = sorted(set().union(*found))
    summary: dict[str, float] = {"n": len(found)}
    for name in names:
        values = [figures[name] for figures in found if name in figures]
        summary[name] = statistics.median(values)
        if name == "seconds" and len(values) > 1:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
            summary |= {"seconds_low": low, "seconds_high": high}
    return summary


def _environment() -> dict[str, Any]:
    import duckdb
    import numpy as np
    import pandas as pd
    import polars as pl

    versions = {m.__name__: m.__version__ for m in (duckdb, np, pd, pl)}
    known = environment() | {"revision": revision(), "memory": machine_memory()}
    return known | versions
