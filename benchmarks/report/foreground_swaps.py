"""A single DAG with and without KernelZero's moving, in a guest of QEMU: swap-ins, counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from benchmarks import kernelzero_swap
from benchmarks.kernelzero_swap import kernels
from benchmarks.kernelzero_swap_guest import BORN_SHARED, COPYING, LIMITS, MOVING
from benchmarks.report.case import Case, Place, Points, Ratio

TIMEOUT = 900


def table_bytes(full: bool) -> int:
    """Return the size of the DAG's table."""
    return (128 << 20) if full else (32 << 20)


def measure(side: str, part: str, full: bool) -> Points:
    """Boot a guest for the side. part: its kernel."""
    nbytes = table_bytes(full)
    runs = kernelzero_swap.count(part, [side], nbytes=nbytes, rounds=1, timeout=TIMEOUT)
    return {f"{part}, {point}": figures for point, (figures,) in runs[side].items()}


@contextmanager
def place(side: str, part: str, full: bool) -> Iterator[Place]:
    """This machine, with a kernel to boot."""
    if why := _unavailable(part):
        raise OSError(why)
    yield Place()


@cache
def _unavailable(kernel: str) -> str:
    """Get a kernel, and compile the module for it; return why that fails, or ""."""
    try:
        kernels.need_tools()
        kernels.get(kernel).build()
    except SystemExit as error:
        return str(error.code).splitlines()[0]
    return ""


CASE = Case(
    name="foreground-swaps",
    title="A single DAG in a guest with KernelZero: swap-ins in the foreground",
    what="One process makes a table of ten integer columns in its heap, puts it into the node "
    "store, and ends; the next one adds it up. Both are in one cgroup, whose limit is "
    + ", ".join(f"{tables:g} tables ({limit})" for limit, tables in LIMITS.items())
    + " beyond what Python takes; the kernel swaps to a compressed device (zram). Copying is the "
    "store without KernelZero, which copies the heap into shared memory; moving is the store with "
    "it; born shared is the store's default, where Arrow allocates shared memory in the first "
    "place.",
    limits="Pages and faults are counted in an emulated machine (QEMU without hardware "
    "virtualization). There are no times: they would say how long emulation takes. Major faults "
    "are those of the two processes, for which they wait; shared memory is read from swap with "
    "readahead, so that it takes fewer of them than pages.",
    sides=(COPYING, MOVING, BORN_SHARED),
    quick_parts=("6.12",),
    full_parts=("6.1", "6.12"),
    measure=measure,
    place=place,
    counts={"swap_ins": "swapped in", "swap_outs": "swapped out", "major": "major faults"},
    ratios=(
        Ratio("pages swapped in, tight", MOVING, COPYING, "6.12, tight, whole", "swap_ins"),
        Ratio("major faults, tight", MOVING, COPYING, "6.12, tight, whole", "major"),
        Ratio("pages swapped in, tighter", MOVING, COPYING, "6.12, tighter, whole", "swap_ins"),
        Ratio("major faults, tighter", MOVING, COPYING, "6.12, tighter, whole", "major"),
        Ratio(
            "pages swapped out, tighter",
            MOVING,
            COPYING,
            "6.12, tighter, whole",
            "swap_outs",
            claimed=True,
        ),
        Ratio("bytes copied", MOVING, COPYING, "6.12, tighter, whole", "copied", claimed=True),
    ),
)
