"""What huge pages cost where memory is in pieces, if the kernel compacts it for them and if not.

A file on a tmpfs with huge=always, as an arena is one, is filled for the first time. With
MADV_HUGEPAGE, which the arena gives, the kernel makes room for a huge page: it moves other pages,
and drops cached files. Without, it takes a huge page that is free, or small ones. (huge=advise with
MADV_HUGEPAGE is the first of the two, without it there are no huge pages.)

    empty      most memory is free
    cache      all memory holds cached files, as on a machine that has run for a while
    pieces     half of all memory is free, but every other page of 4 KiB is taken

Right before a fill, huge pages that are free are taken away. Prints one JSON object, per state and
way: medians and quartiles of milliseconds per GiB, of system time, of the slowest 2 MiB, and of
the share that is in huge pages. Wants root, and a machine without other work.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from mmap import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    PAGESIZE,
    mmap,
)
from pathlib import Path

import psutil

from benchmarks.huge_pages import touch
from zerrow_store.sizes import parse_size

HUGE = 2 << 20
MIB, GIB = 1 << 20, 1 << 30
BLOCK = b"1" * HUGE
LEFT_FREE = GIB
"""So that nothing of the machine is killed."""
WAYS = {"compacting": True, "as free": False}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


class HugeFile:
    """A new file of the huge tmpfs that is the working directory."""

    def __init__(self, nbytes: int, compacting: bool) -> None:
        self._file = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
        os.ftruncate(self._file, nbytes)
        self.memory = mmap(self._file, nbytes)
        if compacting:
            self.memory.madvise(MADV_HUGEPAGE)

    def resident(self) -> int:
        return os.fstat(self._file).st_blocks * 512

    def close(self) -> None:
        self.memory.close()
        os.close(self._file)


def counted(name: str) -> int:
    """Return a figure of /proc/vmstat."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return int(dict(line.split() for line in lines)[name])


def take_free_huge_pages() -> HugeFile:
    """Fill a file until a huge page cannot be had without work."""
    taken = HugeFile(2 * LEFT_FREE, compacting=False)
    for start in range(0, len(taken.memory), HUGE):
        taken.memory[start] = 1
        if taken.resident() < start + HUGE:
            break
    return taken


def fill(nbytes: int, compacting: bool) -> dict[str, float]:
    """Fill a new file, and say what it took."""
    huge, slowest = counted("thp_file_alloc"), 0.0
    file = HugeFile(nbytes, compacting)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    last = start
    for offset in range(0, nbytes, HUGE):
        file.memory[offset : offset + HUGE] = BLOCK
        now = time.perf_counter()
        slowest, last = max(slowest, now - last), now
    after = resource.getrusage(resource.RUSAGE_SELF)
    file.close()
    return {
        "ms_per_gib": 1e3 * (last - start) * GIB / nbytes,
        "system_ms_per_gib": 1e3 * (after.ru_stime - before.ru_stime) * GIB / nbytes,
        "slowest_ms": 1e3 * slowest,
        "huge_share": (counted("thp_file_alloc") - huge) * HUGE / nbytes,
    }


@contextmanager
def empty() -> Iterator[None]:
    """Memory has been touched, so that the machine's host has it ready."""
    touch(4 * GIB)
    yield


@contextmanager
def cache() -> Iterator[None]:
    """A file as large as memory has been read. It has no blocks, so no disk is waited for."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        os.ftruncate(file.fileno(), psutil.virtual_memory().total)
        while file.read(8 * MIB):
            pass
        yield


@contextmanager
def pieces() -> Iterator[None]:
    """Every other page is an ordinary process's."""
    nbytes = (psutil.virtual_memory().available - LEFT_FREE) // HUGE * HUGE
    memory = mmap(-1, nbytes, MAP_PRIVATE | MAP_ANONYMOUS)
    memory.madvise(MADV_NOHUGEPAGE)
    for start in range(0, nbytes, PAGESIZE):
        memory[start] = 1
    for start in range(0, nbytes, 2 * PAGESIZE):
        memory.madvise(MADV_DONTNEED, start, PAGESIZE)
    yield
    memory.close()


STATES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "empty": empty,
    "cache": cache,
    "pieces": pieces,
}


def measure(state: str, nbytes: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Each fill has the state to itself: the kernel compacts in the background, too."""
    found = defaultdict(list)
    for number in range(rounds):
        for way in sorted(WAYS, reverse=number % 2 == 1):
            with STATES[state]():
                taken = take_free_huge_pages() if state != "empty" else None
                found[way].append(fill(nbytes, WAYS[way]))
                print(state, way, found[way][-1], file=sys.stderr, flush=True)
                if taken:
                    taken.close()
    return found


def summary(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Quartiles of every figure."""
    return {
        name: [round(q, 2) for q in statistics.quantiles([run[name] for run in runs], n=4)]
        for name in runs[0]
    }


@contextmanager
def huge_tmpfs() -> Iterator[None]:
    """A tmpfs with huge=always that only this process sees, as the working directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory() as folder:
        at = folder.encode()
        for failed in (
            libc.unshare(CLONE_NEWNS),
            libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None),
            libc.mount(b"tmpfs", at, b"tmpfs", 0, b"huge=always,size=0"),
        ):
            if failed:
                raise OSError(ctypes.get_errno(), "a tmpfs with huge pages cannot be mounted")
        os.chdir(folder)
        yield
        os.chdir("/")
        libc.umount2(at, 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fragmented", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nbytes", type=parse_size, default=GIB)
    parser.add_argument("--states", nargs="+", default=list(STATES), choices=list(STATES))
    given = parser.parse_args()
    with huge_tmpfs():
        found = {state: measure(state, given.nbytes, given.rounds) for state in given.states}
    print(json.dumps({s: {w: summary(r) for w, r in runs.items()} for s, runs in found.items()}))


if __name__ == "__main__":
    main()
