"""The h2o benchmark's group-by and join: five groupings by pyarrow, four joins by polars."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.report.jobs import answers
from benchmarks.report.jobs.running import execute
from benchmarks.tpch import DATA

GROUPINGS: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "sum v1 by id1": (["id1"], [("v1", "sum")]),
    "sum v1 by id1, id2": (["id1", "id2"], [("v1", "sum")]),
    "sum v1, mean v3 by id3": (["id3"], [("v1", "sum"), ("v3", "mean")]),
    "means by id4": (["id4"], [("v1", "mean"), ("v2", "mean"), ("v3", "mean")]),
    "sums by id6": (["id6"], [("v1", "sum"), ("v2", "sum"), ("v3", "sum")]),
}
JOINS = {
    "small by id4": ("small", "id4", "inner"),
    "medium by id5": ("medium", "id5", "inner"),
    "medium by id5, left": ("medium", "id5", "left"),
    "big by id6": ("big", "id6", "inner"),
}


def _rows(full: bool) -> int:
    return 10_000_000 if full else 200_000


def _folder(full: bool) -> Path:
    return DATA / f"h2o-{_rows(full)}"


def prepare(full: bool) -> None:
    """Make the tables, and duckdb's answers."""
    folder = _folder(full)
    if not folder.exists():
        unfinished = folder.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _generate(unfinished, _rows(full))
        unfinished.rename(folder)
    _wanted(full)


def _generate(folder: Path, rows: int) -> None:
    """As the benchmark's own generator: 100 groups, and rows / 100 groups."""
    random, few, many = np.random.default_rng(0), 100, rows // 100
    keys = {
        "id1": _names("id{:03d}", random.integers(1, few + 1, rows)),
        "id2": _names("id{:03d}", random.integers(1, few + 1, rows)),
        "id3": _names("id{:010d}", random.integers(1, many + 1, rows)),
        "id4": random.integers(1, few + 1, rows),
        "id5": random.integers(1, few + 1, rows),
        "id6": random.integers(1, many + 1, rows),
    }
    values = {
        "v1": random.integers(1, 6, rows),
        "v2": random.integers(1, 16, rows),
        "v3": random.random(rows) * 100,
    }
    pq.write_table(pa.table(keys | values), folder / "x.parquet")
    for name, (_, key, _) in {join[0]: join for join in JOINS.values()}.items():
        distinct = many if key == "id6" else few
        matching = random.permutation(distinct)[: distinct * 9 // 10] + 1
        right = pa.table({key: matching, "w": random.random(len(matching)) * 100})
        pq.write_table(right, folder / f"{name}.parquet")


def _names(form: str, numbers: Any) -> pa.Array:
    values, codes = np.unique(numbers, return_inverse=True)
    names = pa.array([form.format(value) for value in values])
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names).cast(pa.string())


def run(side: str, full: bool) -> None:
    """Group and join, all from one read of the table."""
    folder = _folder(full)
    table = ray.remote(read).bind(str(folder / "x.parquet"))
    rights = {
        name: ray.remote(read).bind(str(folder / f"{name}.parquet"))
        for name in {join[0] for join in JOINS.values()}
    }
    groupings = [ray.remote(group).bind(table, *how) for how in GROUPINGS.values()]
    joins = [
        ray.remote(total).bind(ray.remote(join).bind(table, rights[name], key, how))
        for name, key, how in JOINS.values()
    ]
    found = execute(side, ray.remote(together).bind(*groupings, *joins))
    for question, rows in zip([*GROUPINGS, *JOINS], found, strict=True):
        answers.check(question, rows, _wanted(full)[question])


def read(path: str) -> pa.Table:
    return pq.read_table(path)


def group(table: pa.Table, keys: list[str], values: list[tuple[str, str]]) -> list[list[float]]:
    """Return how many groups there are, and the totals of what was worked out of them."""
    groups = table.group_by(keys).aggregate(values)
    sums = [groups[f"{name}_{how}"].to_numpy().sum() for name, how in values]
    return [[groups.num_rows, *sums]]


def join(table: pa.Table, right: pa.Table, key: str, how: Any) -> pa.Table:
    import polars as pl

    joined = pl.DataFrame(pl.from_arrow(table)).join(
        pl.DataFrame(pl.from_arrow(right)), on=key, how=how
    )
    return joined.to_arrow()


def total(table: pa.Table) -> list[list[float]]:
    """Return the number of rows, and two sums."""
    import pyarrow.compute as pc

    return [[table.num_rows, pc.sum(table["v1"]).as_py(), pc.sum(table["w"]).as_py()]]


def together(*results: Any) -> list[Any]:
    return list(results)


def _wanted(full: bool) -> dict[str, answers.Rows]:
    return answers.known(f"h2o-{_rows(full)}", lambda: _by_duckdb(_folder(full)))


def _by_duckdb(folder: Path) -> dict[str, answers.Rows]:
    import duckdb

    means = {"sum": "sum", "mean": "avg"}
    found = {}
    x = f"read_parquet('{folder / 'x.parquet'}')"
    for question, (keys, values) in GROUPINGS.items():
        worked_out = ", ".join(f"{means[how]}({name}) a{i}" for i, (name, how) in enumerate(values))
        sums = ", ".join(f"sum(a{i})" for i in range(len(values)))
        groups = f"select {worked_out} from {x} group by {', '.join(keys)}"
        found[question] = duckdb.sql(f"select count(*), {sums} from ({groups})").fetchall()
    for question, (name, key, how) in JOINS.items():
        right = f"read_parquet('{folder / f'{name}.parquet'}')"
        joined = f"{x} {how} join {right} using ({key})"
        found[question] = duckdb.sql(f"select count(*), sum(v1), sum(w) from {joined}").fetchall()
    return found
