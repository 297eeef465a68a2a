"""Degrees of zero copy: one process writes a table of ten integer columns, another one reads it.

- Full copy: the writer makes an Arrow IPC file in shared memory, the reader reads it into its own.
- Writer copy: the same file, which the reader maps.
- Zero copy: the store. The writer's memory is published as it lies, and the reader maps it.

Each is done twice in the same two processes: in memory that they have not used before ("first"),
and in what that has left ("again").
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.report.case import Case, Points, Ratio
from benchmarks.report.figures import measuring, one_after_the_other
from zerrow_store.config import machine_memory

FULL, WRITER, ZERO = "full copy", "writer copy", "zero copy"
COLUMNS = 10
TURNS = ("first", "again")

Handle = Any
"""What the writer tells the reader: a path, or an object's id."""


class Files:
    """Tables as Arrow IPC files in a directory of /dev/shm."""

    def __init__(self, folder: str) -> None:
        self._path = str(Path(folder, "table.arrow"))
        self._copied = 0

    def write(self, table: pa.Table) -> Handle:
        with pa.OSFile(self._path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        self._copied += os.path.getsize(self._path)
        return self._path

    def delete(self, path: Handle) -> None:
        os.unlink(path)

    def copied(self) -> int:
        return self._copied


class Store:
    """Tables in a node store of their own."""

    def __init__(self, name: str) -> None:
        self._client = _connected(name)

    def write(self, table: pa.Table) -> Handle:
        return self._client.put(table)

    def delete(self, object_id: Handle) -> None:
        self._client.delete(object_id)

    def copied(self) -> int:
        return self._client.stats().bytes_copied


# What the other process does returns the sum of all columns, and the bytes that were copied.


def read_file(path: str) -> tuple[int, int]:
    copy = Path(path).read_bytes()
    return _sum(pa.ipc.open_file(copy).read_all()), len(copy)


def map_file(path: str) -> tuple[int, int]:
    return _sum(pa.ipc.open_file(pa.memory_map(path)).read_all()), 0


def read_store(name: str, object_id: bytes) -> tuple[int, int]:
    return _sum(_connected(name).get(object_id)), 0


@cache
def _connected(name: str) -> Any:
    import zerrow_store

    return zerrow_store.connect(name)


def _sum(table: pa.Table) -> int:
    return sum(pc.sum(column).as_py() for column in table.columns)


def _born(where: str, rows: int) -> pa.Table:
    """Make the table. Every column is memory of its own."""
    base = np.arange(rows)
    columns = {
        f"c{i}": pc.add(pa.array(base), i) if where == "Arrow" else pa.array(base + i)
        for i in range(COLUMNS)
    }
    return pa.table(columns)


@contextmanager
def _ways(side: str) -> Iterator[tuple[Files | Store, Callable[[Handle], tuple[int, int]]]]:
    """Yield the writer's way, and the function with which the other process reads."""
    with ExitStack() as stack:
        if side != ZERO:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
            yield Files(folder), read_file if side == FULL else map_file
            return
        from zerrow_store.server.supervisor import Supervisor

        name = f"report-{os.getpid()}"
        supervisor = Supervisor(name, budget=machine_memory() // 2, watch_pid=os.getpid())
        supervisor.start()
        stack.callback(supervisor.stop)
        yield Store(name), partial(read_store, name)


def measure(side: str, part: str, full: bool) -> Points:
    """part: where the table is born, "Arrow" or "NumPy"."""
    nbytes = min(10 << 30, machine_memory() // 6) if full else 256 << 20
    rows = nbytes // 8 // COLUMNS
    points: Points = {}
    with multiprocessing.get_context("spawn").Pool(1) as other, _ways(side) as (way, read):
        _once(other, way, read, 1000, part, {}, "warm up")
        for turn in TURNS:
            _once(other, way, read, rows, part, points, f"{part}, {turn}")
    return points


def _once(
    other: Pool,
    way: Files | Store,
    read: Callable[[Handle], tuple[int, int]],
    rows: int,
    born: str,
    points: Points,
    label: str,
) -> None:
    make, write = f"make, {label}", f"write, {label}"
    with measuring(points, make, way.copied):
        table = _born(born, rows)
    with measuring(points, write, way.copied):
        handle = way.write(table)
    points[f"make and write, {label}"] = one_after_the_other(points[make], points[write])
    expected = COLUMNS * rows * (rows - 1) // 2 + rows * COLUMNS * (COLUMNS - 1) // 2
    with measuring(points, f"read, {label}"):
        found, copied = other.apply(read, (handle,))
    points[f"read, {label}"]["copied"] = copied
    assert found == expected, (found, expected)
    way.delete(handle)


CASE = Case(
    name="zero-copy",
    title="Degrees of zero copy",
    what="One process makes and writes a table of ten integer columns, another one reads it and "
    "adds every column up. Full copy: Arrow IPC in shared memory, read into the reader's own. "
    "Writer copy: the same file, mapped. Zero copy: the store.",
    limits="Reading includes adding up, which costs all sides the same. “First” is memory that "
    "the processes have not used before; NumPy-born tables are what Arrow's allocators have not "
    "made.",
    sides=(FULL, WRITER, ZERO),
    quick_parts=("Arrow", "NumPy"),
    full_parts=("Arrow", "NumPy"),
    measure=measure,
    ratios=(
        Ratio("Writer Copy readers over Full Copy", WRITER, FULL, "read, Arrow, again", paper=3.8),
        Ratio(
            "Zero Copy readers over Full Copy",
            ZERO,
            FULL,
            "read, Arrow, again",
            paper=3.9,
            claimed=True,
        ),
        Ratio(
            "Zero Copy writer over Writer Copy",
            ZERO,
            WRITER,
            "make and write, Arrow, again",
            paper=2.3,
        ),
        Ratio("Zero Copy readers, NumPy-born, first", ZERO, FULL, "read, NumPy, first"),
        Ratio("Zero Copy writer, NumPy-born, first", ZERO, WRITER, "make and write, NumPy, first"),
        Ratio("a write alone", ZERO, WRITER, "write, Arrow, again", claimed=True),
        Ratio("bytes copied", ZERO, WRITER, "write, Arrow, again", "copied", claimed=True),
    ),
)
