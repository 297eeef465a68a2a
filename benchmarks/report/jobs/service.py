"""A service with many readers: four actors answer questions from one shared table, of which a task
makes a new version now and then, with one column replaced.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

ACTORS, VERSIONS, QUESTIONS = 4, 5, 40
COLUMNS = 8


def _rows(full: bool) -> int:
    return 4_000_000 if full else 200_000


def prepare(full: bool) -> None:
    """There is no data: the first version is made by the job."""


def run(side: str, full: bool) -> None:
    """Publish versions, ask about each, and compare the answers."""
    rows = _rows(full)
    actors = [ray.remote(num_cpus=0.25)(Reader).remote() for _ in range(ACTORS)]
    table = ray.remote(first).remote(rows)
    for version in range(VERSIONS):
        ray.get([actor.take.remote([table]) for actor in actors])
        questions = [(17 * n % rows, n % COLUMNS) for n in range(QUESTIONS)]
        found = ray.get(
            [actors[n % ACTORS].answer.remote(*question) for n, question in enumerate(questions)]
        )
        assert found == [_expected(rows, version, *question) for question in questions], version
        table = ray.remote(next_version).remote(table, version + 1)
    ray.get(ray.remote(num_rows).remote(table))


def first(rows: int) -> pa.Table:
    base = pa.array(np.arange(rows))
    return pa.table({f"c{i}": pc.add(base, i) for i in range(COLUMNS)})


def next_version(table: pa.Table, version: int) -> pa.Table:
    """The same table, with 1000 more in one column."""
    index = version % COLUMNS
    return table.set_column(index, f"c{index}", pc.add(table[f"c{index}"], 1000))


def num_rows(table: pa.Table) -> int:
    return int(table.num_rows)


def _expected(rows: int, version: int, start: int, column: int) -> int:
    """The sum of a column from a row on."""
    more = 1000 if 0 < column <= version else 0
    count = rows - start
    return count * (start + rows - 1) // 2 + count * (column + more)


class Reader:
    """Has the latest version, and answers from it."""

    def __init__(self) -> None:
        self._table: Any = None

    def take(self, table: list[Any]) -> None:
        self._table = ray.get(table[0])

    def answer(self, start: int, column: int) -> int:
        return int(pc.sum(self._table[f"c{column}"].slice(start)).as_py())
