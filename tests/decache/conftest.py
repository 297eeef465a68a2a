"""A store of each test's own, and the comparison of what is read with what pyarrow reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.node.helpers import Store
from zerrow_store.client.client import Client
from zerrow_store.decache import read_parquet

Outcome = pa.Table | Exception


@pytest.fixture
def client(store: Store) -> Client:
    return store.connected()


def outcome(action: Callable[[], pa.Table]) -> Outcome:
    """What an action returns or raises."""
    try:
        return action()
    except Exception as error:
        return error


def assert_same(got: Outcome, expected: Outcome) -> None:
    """Equal tables, types and metadata included; or errors of the same class."""
    if isinstance(expected, Exception):
        assert type(got) is type(expected), f"{got!r} instead of {expected!r}"
        return
    if isinstance(got, Exception):
        raise got
    assert got.schema.equals(expected.schema, check_metadata=True), (got.schema, expected.schema)
    assert got.num_rows == expected.num_rows
    assert _comparable(got).equals(_comparable(expected))
    got.validate(full=True)


def write_any(folder: Path, array: pa.Array) -> str | None:
    """Write an array of any type, and a number for each row, in small row groups; returns the
    file's path, or None if Parquet has no such type.
    """
    path = str(folder / "any.parquet")
    table = pa.table({"x": array, "y": pa.array(range(len(array)))})
    written = outcome(lambda: pq.write_table(table, path, row_group_size=2) or table)
    return None if isinstance(written, Exception) else path


def assert_reads_like_pyarrow(client: Client, source: Any, **options: Any) -> Outcome:
    """Read a file without and with what the first read has left in the cache."""
    expected = outcome(lambda: pq.read_table(source, **options))
    for _ in range(2):
        assert_same(outcome(lambda: read_parquet(source, client=client, **options)), expected)
    return expected


def _comparable(table: pa.Table) -> pa.Table:
    """With one dictionary for each column: equal chunks may have differing dictionaries."""
    columns = []
    for column in table.columns:
        if pa.types.is_dictionary(column.type) and column.type.value_type.num_fields == 0:
            column = column.cast(column.type.value_type)
        columns.append(column)
    return pa.table(columns, names=[str(i) for i in range(len(columns))])
