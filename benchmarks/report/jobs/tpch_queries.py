"""The 22 queries of TPC-H as one DAG: a task reads each table, one for each query takes the columns
that it needs of each, and one runs it, by duckdb over Arrow tables.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.report.data import plain_strings
from benchmarks.report.jobs import answers
from benchmarks.report.jobs.running import execute
from benchmarks.tpch import TABLES, tpch


def scale(full: bool) -> str:
    """Return TPC-H's."""
    return "1" if full else "0.02"


def prepare(full: bool) -> None:
    """Make the tables, and duckdb's answers."""
    _wanted(full)


def run(side: str, full: bool) -> None:
    """Run all queries, and compare each answer."""
    data = tpch(scale(full))
    texts = queries()
    tables = {
        table: ray.remote(read).bind(str(data / f"{table}.parquet"), sorted(columns))
        for table in TABLES
        if (columns := set().union(*(used(text, data)[table] for text in texts)))
    }
    nodes = [_query(text, used(text, data), tables) for text in texts]
    found = execute(side, ray.remote(together).bind(*nodes))
    for number, rows in enumerate(found, 1):
        answers.check(f"query {number}", rows, _wanted(full)[str(number)])


def _query(text: str, columns: dict[str, set[str]], tables: dict[str, Any]) -> Any:
    needed = {table: sorted(names) for table, names in columns.items() if names}
    inputs = [ray.remote(project).bind(tables[table], names) for table, names in needed.items()]
    return ray.remote(query).bind(text, list(needed), *inputs)


def read(path: str, columns: list[str]) -> pa.Table:
    return plain_strings(pq.read_table(path, columns=columns))


def project(table: pa.Table, columns: list[str]) -> pa.Table:
    return table.select(columns)


def query(text: str, names: list[str], *tables: pa.Table) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect() as database:
        database.execute("set threads = 1")  # one task has one processor
        for name, table in zip(names, tables, strict=True):
            database.register(name, table)
        return database.execute(text).fetchall()


def together(*results: Any) -> list[Any]:
    return list(results)


@cache
def queries() -> list[str]:
    """Return the queries' texts, as duckdb's extension has them."""
    with _database() as database:
        return [text for _, text in database.execute("from tpch_queries()").fetchall()]


def _database() -> Any:
    """A duckdb with the extension, which a package brings."""
    import duckdb
    import duckdb_extension_tpch

    database = duckdb.connect()
    folder = Path(duckdb_extension_tpch.__file__).parent
    (extension,) = folder.rglob("*.duckdb_extension")
    database.load_extension(str(extension))
    return database


def used(text: str, data: Path) -> dict[str, set[str]]:
    """Return the columns of each table that a query names: they have names of their own."""
    words = set(re.findall(r"\w+", text.lower()))
    return {table: words & _columns(data / f"{table}.parquet") for table in TABLES}


@cache
def _columns(path: Path) -> frozenset[str]:
    return frozenset(pq.read_schema(path).names)


def _wanted(full: bool) -> dict[str, answers.Rows]:
    return answers.known(f"tpch-{scale(full)}", lambda: _by_duckdb(tpch(scale(full))))


def _by_duckdb(data: Path) -> dict[str, answers.Rows]:
    with _database() as database:
        for table in TABLES:
            path = data / f"{table}.parquet"
            database.execute(f"create view {table} as from read_parquet('{path}')")
        return {
            str(number): database.execute(text).fetchall()
            for number, text in enumerate(queries(), 1)
        }
