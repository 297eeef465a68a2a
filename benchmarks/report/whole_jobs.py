"""Whole jobs in 100, 50 and 25 % of the memory that they need."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from benchmarks.report.case import Case, Place, Points, Ratio
from benchmarks.report.figures import measuring
from benchmarks.report.limits import no_limits
from benchmarks.report.runner import ROOT
from benchmarks.report.session import copied_bytes, is_plain, ray_session
from benchmarks.tpch import DATA

PLAIN, OURS = "plain Ray", "zerrow"
JOBS = {
    "TPC-H": "tpch_queries",
    "h2o": "h2o",
    "pandas features": "features",
    "Ray Data ETL": "etl",
    "many readers": "service",
}
SHARES = (100, 50, 25)
LEAST = 96 << 20
"""Of memory for results: less than that is no plasma."""
OVERHEAD = 4 << 30
"""For Ray's own processes, the workers' interpreters, and what functions work with."""
PLENTY = 12 << 30


def parts(shares: tuple[int, ...]) -> tuple[str, ...]:
    """Return the parts: each job in each share of the memory that it needs."""
    return tuple(f"{job}, {share}%" for job in JOBS for share in shares)


def measure(side: str, part: str, full: bool) -> Points:
    """The job, twice, with the memory that the environment says."""
    job, share = part.rsplit(", ", 1)
    memory = int(os.environ["RESULTS_MEMORY"])
    points: Points = {}
    options: dict[str, Any] = {} if is_plain(side) else {"memory": memory}
    with ray_session(side, plasma=memory, **options):
        for turn in ("first", "again"):
            with measuring(points, f"{job}, {turn}, {share}", copied_bytes):
                _module(job).run(side, full)
    return points


def measure_need(side: str, part: str, full: bool) -> Points:
    """What the job writes to plasma in all, if there is plenty of it."""
    with ray_session(side, plasma=PLENTY):
        before = copied_bytes()
        _module(part).run(side, full)
        return {part: {"bytes": copied_bytes() - before}}


def _module(job: str) -> Any:
    return import_module(f"benchmarks.report.jobs.{JOBS[job]}")


def needs(full: bool) -> dict[str, float]:
    """Return the bytes that each job needs: all of its results on plain Ray, measured once."""
    path = DATA / f"needs-{'full' if full else 'quick'}.json"
    if not path.exists():
        path.write_text(json.dumps({job: _need(job, full) for job in JOBS}))
    known: dict[str, float] = json.loads(path.read_text())
    return known


def _need(job: str, full: bool) -> float:
    command = [sys.executable, "-m", "benchmarks.report.side", __name__, measure_need.__name__]
    command += ["--side", PLAIN, "--part", job] + (["--full"] if full else [])
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["points"][job]["bytes"])


def prepare(full: bool) -> None:
    """Make the data and the answers, and see what each job needs."""
    for job in JOBS:
        _module(job).prepare(full)
    needs(full)


@contextmanager
def place(side: str, part: str, full: bool) -> Iterator[Place]:
    """Results in their share of memory, and everything under a hard limit where there are some."""
    job, share = part.rsplit(", ", 1)
    memory = max(LEAST, int(needs(full)[job] * int(share.rstrip("%")) / 100))
    limit = None if no_limits(side) else memory + OVERHEAD
    yield Place(environ={"RESULTS_MEMORY": str(memory)}, limit=limit)


CASE = Case(
    name="whole-jobs",
    title="Whole jobs",
    what="The 22 queries of TPC-H as one DAG (duckdb inside the tasks), h2o's group-by (pyarrow) "
    "and join (polars), a feature pipeline over pandas, a Ray Data job, and a service of actors "
    "that read one table, with 100, 50 and 25 % of the memory for results that they need. "
    "Answers are compared with duckdb's, or with those of one process.",
    limits="Need is what plain Ray writes to plasma in all, which is more than it holds at once. "
    "The plugin's store has the share, and plasma has it on both sides, as Ray plans by it. Beyond "
    "that, everything has 4 GiB in a cgroup, where this is root with cgroup v1; plain Ray spills "
    "to the machine's disk. Quick runs have hardly more than the least that plasma takes.",
    sides=(PLAIN, OURS),
    quick_parts=parts((25,)),
    full_parts=parts(SHARES),
    measure=measure,
    place=place,
    prepare=prepare,
    means=tuple(f"again, {share}%" for share in SHARES),
    rounds=3,
    ratios=tuple(
        Ratio(f"{job}, {share} % of memory", OURS, PLAIN, f"{job}, again, {share}%")
        for job in JOBS
        for share in SHARES
    ),
)
