"""When it does not help: kinds of work that have nothing, or little, to gain."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.report.case import Case, Points, Ratio
from benchmarks.report.data import lineitem
from benchmarks.report.figures import measuring
from benchmarks.report.session import copied_bytes, ray_session

PLAIN, OURS = "plain Ray", "zerrow"
MIB = 1 << 20


@ray.remote
def numbers(nbytes: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(np.arange(nbytes // 8)), 1)})


@ray.remote
def total(table: pa.Table) -> int:
    return int(pc.sum(table["x"]).as_py())


@ray.remote
def sort(rows: int, repeat: int) -> pa.Table:
    """Much work, and a small result."""
    random = np.random.default_rng(0)
    table = pa.table({"x": random.random(rows)})
    for _ in range(repeat):
        table = table.take(pc.sort_indices(random.random(rows)))
    return table.slice(0, 100_000)


@ray.remote
def read(path: str) -> pa.Table:
    return pq.read_table(path)


@ray.remote
def rows(table: Any) -> int:
    return len(table)


@ray.remote
def from_polars(nbytes: int) -> Any:
    import polars as pl

    return pl.select(x=pl.int_range(nbytes // 8)).with_columns(y=pl.col("x") * 2)


@ray.remote
def from_duckdb(nbytes: int) -> pa.Table:
    import duckdb

    return duckdb.sql(f"select range x, range * 2 y from range({nbytes // 8})").to_arrow_table()


@ray.remote
def strings(nbytes: int) -> pa.Table:
    """Long strings, no two alike."""
    numbers = pa.array(np.arange(nbytes // 200)).cast(pa.string())
    return pa.table({"s": pc.utf8_rpad(numbers, 200, padding="x")})


@ray.remote
def every_second(table: pa.Table) -> pa.Table:
    """New memory for all that is kept."""
    return table.filter(pa.array(np.arange(table.num_rows) % 2 == 0))


@ray.remote
def many_columns(nbytes: int) -> pa.Table:
    base = pa.array(np.arange(nbytes // 8 // 2000))
    return pa.table({f"c{i}": pc.add(base, i) for i in range(2000)})


def measure(side: str, part: str, full: bool) -> Points:
    """All kinds of work in one Ray; each first in fresh memory ("first"), then again."""
    nbytes = 256 * MIB if full else 16 * MIB
    path = str(lineitem("0.5" if full else "0.02"))

    def hop(make: Any, use: Any = rows) -> Callable[[], None]:
        return lambda: ray.get(use.remote(make.remote(nbytes)))

    kinds: dict[str, Callable[[], None]] = {
        "one consumer": hop(numbers, total),
        "CPU-bound": lambda: ray.get(rows.remote(sort.remote(nbytes // 64, 8))),
        "Parquet, one consumer": lambda: ray.get(rows.remote(read.remote(path))),
        "polars result": hop(from_polars),
        "duckdb result": hop(from_duckdb),
        "wide strings": lambda: ray.get(rows.remote(every_second.remote(strings.remote(nbytes)))),
        "2000 columns": hop(many_columns),
        "100 small tables": lambda: ray.get(
            [rows.remote(numbers.remote(1 << 16)) for _ in range(100)]
        ),
    }
    points: Points = {}
    with ray_session(side):
        for kind, work in kinds.items():
            for turn in ("first", "again", "and again"):
                with measuring(points, f"{kind}, {turn}", copied_bytes):
                    work()
            # What was freed goes back to the kernel: the next kind has cold memory, too.
            time.sleep(6 if full else 0)
    return points


def prepare(full: bool) -> None:
    """Make the file."""
    lineitem("0.5" if full else "0.02")


KINDS = (
    "one consumer",
    "CPU-bound",
    "Parquet, one consumer",
    "polars result",
    "duckdb result",
    "wide strings",
    "2000 columns",
    "100 small tables",
)

CASE = Case(
    name="no-help",
    title="When it does not help",
    what="Work that has little to gain: one consumer, processor-bound functions, results of "
    "engines whose memory is copied all the same, strings of which no two are alike, small "
    "tables. “First” is in memory that no process has used for a while.",
    sides=(PLAIN, OURS),
    measure=measure,
    prepare=prepare,
    ratios=tuple(Ratio(kind, OURS, PLAIN, f"{kind}, and again") for kind in KINDS)
    + tuple(Ratio(f"{kind}, cold", OURS, PLAIN, f"{kind}, first") for kind in KINDS),
)
