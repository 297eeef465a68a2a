"""Rollback, swap and adaptive: the DAG of `benchmarks.pressure`, the sides alternately."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray

from benchmarks import pressure
from benchmarks.report.case import Case, Place, Points, Ratio
from benchmarks.report.figures import measuring
from benchmarks.report.limits import no_limits
from benchmarks.report.session import copied_bytes
from benchmarks.slow_disk import slow_disk

PLAIN, SWAP, ROLLBACK, ADAPTIVE = pressure.SIDES
QUICK = ("0.1 s",)
SLOW_DISK = "disk of 250 MB/s"


def measure(side: str, part: str, full: bool) -> Points:
    """part: the machine's disk."""
    points: Points = {}
    pressure.start_ray(side)
    pressure.run_once(side, 0.0, False)  # workers, and what functions need, are known after that
    for label, (latency, mixed) in pressure.CASES.items():
        if full or label in QUICK:
            with measuring(points, f"{label}, {part}", copied_bytes):
                pressure.run_once(side, latency, mixed)
    ray.shutdown()
    return points


@contextmanager
def place(side: str, part: str, full: bool) -> Iterator[Place]:
    """Everything under the limit, and what is spilled on the part's disk."""
    bandwidth, huge_pages = pressure.MACHINES[part]
    with ExitStack() as stack:
        if bandwidth is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
        else:
            folder = str(stack.enter_context(slow_disk(bandwidth, pressure.DISK_SIZE)))
        environ = pressure.environ(folder, huge_pages)
        yield Place(environ=environ, limit=pressure.MEMORY + pressure.OVERHEAD)


CASE = Case(
    name="eviction",
    title="Rollback, swap and adaptive",
    what=f"A DAG makes {pressure.TABLES} tables of {pressure.TABLE >> 20} MiB, reads each, and "
    f"then all once more, with {pressure.MEMORY >> 20} MiB for them. Making a table takes the "
    "time that stands at the point. Swap spills to disk, rollback makes again, adaptive does "
    "what it expects to be cheaper; plain Ray has a plasma of the same size and spills.",
    limits="All processes and their files' pages are in a cgroup with 1 GiB more than that. The "
    "paper's 2.0 to 2.2 is rollback over swap; it depends on the disk and on the functions.",
    sides=pressure.SIDES,
    quick_parts=("own disk",),
    full_parts=tuple(pressure.MACHINES),
    measure=measure,
    place=place,
    missing=no_limits,
    ratios=(
        Ratio(
            "rollback over swap, functions of no time", ROLLBACK, SWAP, "0 s, own disk", paper=2.0
        ),
        Ratio("the same, on a slow disk", ROLLBACK, SWAP, f"0 s, {SLOW_DISK}", paper=2.2),
        Ratio("adaptive over plain Ray, functions of 0.1 s", ADAPTIVE, PLAIN, "0.1 s, own disk"),
        Ratio("adaptive over rollback, functions of 1 s", ADAPTIVE, ROLLBACK, "1 s, own disk"),
        Ratio("adaptive over swap, no time, slow disk", ADAPTIVE, SWAP, f"0 s, {SLOW_DISK}"),
    ),
)
