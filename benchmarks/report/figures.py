"""Measures a block of code: its seconds, and what the whole session takes for it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.measure import PeakMemory, Work
from benchmarks.report.case import Figures, Points


@contextmanager
def measuring(points: Points, name: str, copied: Callable[[], int] | None = None) -> Iterator[None]:
    """Record under `name` what the block takes.

    copied: a running count of the bytes that the side has copied. Memory is looked at five times a
    second, and at the end.
    """
    before = copied() if copied else 0
    work = Work()
    with PeakMemory(0.2, work) as peak:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        work.look()
    figures = {"seconds": seconds, "cpu": work.cpu, "faults": work.faults, "pss": peak.bytes}
    if copied:
        figures["copied"] = copied() - before
    points[name] = figures
    print(f"    {name}: {seconds:.4g} s", file=sys.stderr, flush=True)


def one_after_the_other(first: Figures, second: Figures) -> Figures:
    """Return the figures of two blocks as if they had been measured as one."""
    both = {name: first[name] + second[name] for name in first if name in second}
    return both | {"pss": max(first["pss"], second["pss"])}
