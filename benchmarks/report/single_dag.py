"""A single DAG of one function and its reader, with and without moving memory, under a generous and
a tight limit. What does not fit is swapped out by the kernel, as in the paper.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from benchmarks.report.case import Case, Place, Points, Ratio
from benchmarks.report.figures import measuring
from benchmarks.report.limits import no_limits
from benchmarks.report.session import copied_bytes, is_plain, ray_session

PLAIN, COPYING, MOVING = "plain Ray", "copying", "moving"
COLUMNS = 10
OVERHEAD = 1 << 30
TIMES = {"generous": 8.0, "tight": 1.25}
"""The limit, beyond what Ray takes, in tables."""


def table_bytes(full: bool) -> int:
    """Return the size of the DAG's table."""
    return (1 << 30) if full else (128 << 20)


@ray.remote
def make(rows: int, number: int) -> pa.Table:
    base = pa.array(np.arange(rows))
    return pa.table({f"c{i}": pc.add(base, number + i) for i in range(COLUMNS)})


@ray.remote
def total(table: pa.Table) -> int:
    return sum(pc.sum(column).as_py() for column in table.columns)


def measure(side: str, part: str, full: bool) -> Points:
    """part: the limit."""
    nbytes = table_bytes(full)
    rows = nbytes // 8 // COLUMNS
    points: Points = {}
    options = {} if is_plain(side) else {"memory": 4 * nbytes}
    with ray_session(side, plasma=4 * nbytes, **options):
        for number, turn in enumerate(("first", "again", "and again")):
            swapped = swap_ins()
            with measuring(points, f"{part}, {turn}", copied_bytes):
                found = ray.get(total.remote(make.remote(rows, number)))
            points[f"{part}, {turn}"]["swap_ins"] = swap_ins() - swapped
            shift = rows * sum(number + i for i in range(COLUMNS))
            assert found == COLUMNS * rows * (rows - 1) // 2 + shift, (side, found)
    return points


def swap_ins() -> int:
    """Return how many pages the machine has read from swap since it was started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("pswpin "))


@contextmanager
def place(side: str, part: str, full: bool) -> Iterator[Place]:
    """Everything under the limit, and swap for what is beyond it."""
    captured = "0" if side == COPYING else "1"
    environ = {"ZERROW_CAPTURE_ARROW": captured, "ZERROW_CAPTURE_NUMPY": captured}
    environ["ZERROW_KERNELZERO"] = "off"
    environ["RAY_memory_monitor_refresh_ms"] = "0"  # the kernel is to swap, not Ray to kill
    nbytes = table_bytes(full)
    with swap(8 * nbytes):
        yield Place(environ=environ, limit=int(TIMES[part] * nbytes) + OVERHEAD)


@contextmanager
def swap(nbytes: int) -> Iterator[None]:
    """A swap file on the machine's disk, gone at the end."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
        path = Path(folder, "swap")
        subprocess.run(["fallocate", "-l", str(nbytes), path], check=True)
        path.chmod(0o600)
        subprocess.run(["mkswap", path], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", path], check=True)
        stack.callback(subprocess.run, ["swapoff", path], check=True)
        yield


CASE = Case(
    name="single-dag",
    title="A single DAG, with and without moving memory",
    what="One function makes a table of ten integer columns, the next one adds it up. Copying is "
    "the plugin without its arena: what is returned is copied into shared memory, as Writer Copy "
    f"does. The limit is {TIMES['generous']:g} and {TIMES['tight']:g} tables beyond the 1 GiB "
    "that Ray and Python take, with a swap file for the rest.",
    limits="The paper moves memory with KernelZero. That needs its module in the kernel; in a "
    "guest without hardware virtualization it has no times, only counts (foreground-swaps).",
    sides=(PLAIN, COPYING, MOVING),
    quick_parts=tuple(TIMES),
    full_parts=tuple(TIMES),
    measure=measure,
    place=place,
    missing=no_limits,
    ratios=(
        Ratio("moving over copying, generous", MOVING, COPYING, "generous, and again", paper=1.8),
        Ratio("moving over copying, tight", MOVING, COPYING, "tight, and again", paper=2.2),
        Ratio("moving over copying, generous, first", MOVING, COPYING, "generous, first"),
        Ratio("moving over plain Ray, generous", MOVING, PLAIN, "generous, and again"),
        Ratio("moving over plain Ray, tight", MOVING, PLAIN, "tight, and again"),
        Ratio("pages swapped in, tight", MOVING, COPYING, "tight, and again", "swap_ins"),
        Ratio("bytes copied", MOVING, COPYING, "generous, again", "copied", claimed=True),
    ),
)
