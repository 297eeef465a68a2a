"""Overall throughput: the ten TPC-H pipelines of `benchmarks.pipelines`, the sides alternately."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import ray

from benchmarks import pipelines
from benchmarks.report.case import Case, Place, Points, Ratio
from benchmarks.report.figures import measuring
from benchmarks.report.limits import no_limits
from benchmarks.report.session import copied_bytes
from benchmarks.tpch import tpch

PLAIN, OURS = "plain Ray", "adaptive"
PARTS = tuple(f"{share:.0%}" for share in pipelines.SHARES)


def scale(full: bool) -> str:
    """Return TPC-H's."""
    return "0.5" if full else "0.05"


@cache
def needed(full: bool) -> int:
    """Return the bytes that all results take."""
    return pipelines.needed(tpch(scale(full)))


def measure(side: str, part: str, full: bool) -> Points:
    """part: the share of the memory that all results take."""
    data = tpch(scale(full))
    reference = pipelines.expected(data)
    points: Points = {}
    pipelines.start_ray(side, int(os.environ["RESULTS_MEMORY"]))
    pipelines.warm_up()
    for turn in ("first", "again"):
        with measuring(points, f"{part}, {turn}", copied_bytes):
            outcomes = pipelines.run_all(side, data)
        pipelines.check(side, outcomes, reference)
    ray.shutdown()
    return points


@contextmanager
def place(side: str, part: str, full: bool) -> Iterator[Place]:
    """Everything under the limit."""
    memory = max(128 << 20, needed(full) * int(part.rstrip("%")) // 100)
    environ = {"RESULTS_MEMORY": str(memory)}
    yield Place(environ=environ, limit=memory + pipelines.OVERHEAD)


def prepare(full: bool) -> None:
    """Make the data."""
    tpch(scale(full))


CASE = Case(
    name="throughput",
    title="Overall throughput",
    what="Ten TPC-H pipelines at once: each reads, filters, adds columns, joins, and aggregates "
    "in three ways, in 100, 50, 25 and 10 % of the memory that all their results take. Every "
    "result is compared with pyarrow's.",
    limits="All processes are in a cgroup with 4 GiB more than that. “First” includes learning "
    "what the functions need. The paper's 1.5 to 9.5 are the ends of its own settings, which are "
    "not known; they stand beside the ends of ours.",
    sides=(PLAIN, OURS),
    quick_parts=("100%",),
    full_parts=PARTS,
    measure=measure,
    place=place,
    prepare=prepare,
    missing=no_limits,
    ratios=(
        *(
            Ratio(f"in {part} of the memory", OURS, PLAIN, f"{part}, again", paper=paper)
            for part, paper in zip(PARTS, (1.5, None, None, 9.5), strict=True)
        ),
        Ratio("in 25 %, first", OURS, PLAIN, "25%, first"),
        Ratio("most memory, in 100 %", OURS, PLAIN, "100%, again", "pss"),
        Ratio("bytes copied", OURS, PLAIN, "100%, again", "copied", claimed=True),
    ),
)
