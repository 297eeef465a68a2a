"""The break-even in bytes and in consumers: from where on a table is worth having by reference."""

import statistics
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from benchmarks.report.case import Case, Figures, Points, Ratio
from benchmarks.report.figures import measuring
from benchmarks.report.session import copied_bytes, ray_session

PLAIN, OURS = "plain Ray", "zerrow"
KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, 512 * KIB, 1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 64 * MIB)
CONSUMERS = (1, 2, 4, 8, 16)
HOPS = 20


@ray.remote
def make(nbytes: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(np.arange(nbytes // 8)), 1)})


@ray.remote
def total(table: pa.Table) -> int:
    return int(pc.sum(table["x"]).as_py())


def bytes_points(points: Points, sizes: tuple[int, ...], repeat: int) -> None:
    """A table made by one task and read by the next, one hop after the other."""
    for nbytes in sizes:
        _warm(nbytes)
        with measuring(points, str(nbytes // KIB), copied_bytes):
            seconds = [
                _seconds(lambda size=nbytes: total.remote(make.remote(size))) for _ in range(repeat)
            ]
        points[str(nbytes // KIB)] = _each(points[str(nbytes // KIB)], seconds)


def consumers_points(points: Points, nbytes: int, repeat: int) -> None:
    """A table made by one task, and read by several."""
    for count in CONSUMERS:
        _warm(nbytes)

        def fan(count: int = count) -> list[Any]:
            table = make.remote(nbytes)
            return [total.remote(table) for _ in range(count)]

        with measuring(points, str(count), copied_bytes):
            seconds = [_seconds(fan) for _ in range(repeat)]
        points[str(count)] = _each(points[str(count)], seconds)


def _warm(nbytes: int) -> None:
    ray.get([total.remote(make.remote(nbytes)) for _ in range(4)])


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    ray.get(call())
    seconds = time.perf_counter() - start
    time.sleep(0.02)  # in which what was made is freed
    return seconds


def _each(figures: Figures, seconds: list[float]) -> Figures:
    """Return the figures of one hop of several: the median of the seconds, the mean of others."""
    totals = {name: figures[name] / len(seconds) for name in ("cpu", "faults", "copied")}
    return totals | {"seconds": statistics.median(seconds), "pss": figures["pss"]}


def measure_bytes(side: str, part: str, full: bool) -> Points:
    """Hops of tables of all sizes."""
    points: Points = {}
    with ray_session(side):
        bytes_points(points, SIZES if full else SIZES[::3], HOPS if full else 5)
    return points


def measure_consumers(side: str, part: str, full: bool) -> Points:
    """One table for several consumers."""
    points: Points = {}
    with ray_session(side):
        consumers_points(points, 64 * MIB if full else 8 * MIB, HOPS if full else 3)
    return points


BYTES = Case(
    name="break-even-bytes",
    title="The break-even in bytes",
    what="A task makes a table, the next one adds it up, one hop after the other, in warm "
    "memory. Below `ZERROW_THRESHOLD` tables take Ray's own path.",
    sides=(PLAIN, OURS),
    measure=measure_bytes,
    axis="KiB",
    quick_rounds=2,
    ratios=tuple(Ratio(f"{size / MIB:g} MiB", OURS, PLAIN, str(size // KIB)) for size in SIZES),
)

CONSUMING = Case(
    name="break-even-consumers",
    title="The break-even in consumers",
    what="A task makes a table of 64 MiB (8 MiB in a quick run), and some others add it up.",
    limits="Plain Ray copies a result once, however many read it: what grows with the consumers "
    "is not the copying, but what else is done.",
    sides=(PLAIN, OURS),
    measure=measure_consumers,
    axis="consumers",
    ratios=tuple(Ratio(f"{count} consumers", OURS, PLAIN, str(count)) for count in CONSUMERS),
)
