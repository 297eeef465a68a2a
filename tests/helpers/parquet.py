"""Parquet files, and the comparison of what is read with what pyarrow reads."""

import base64
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pyarrow.tests

from tests.helpers.pyarrows import PYARROW
from zerrow_store.client.client import Client
from zerrow_store.decache import read_parquet

Outcome = pa.Table | Exception


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


def write_encrypted(table, path):
    """Write a file with all columns encrypted; returns what decrypts it."""

    class Kms(pe.KmsClient):
        def wrap_key(self, key, _):
            return base64.b64encode(key)

        def unwrap_key(self, key, _):
            return base64.b64decode(key)

    factory = pe.CryptoFactory(lambda _: Kms())
    connection = pe.KmsConnectionConfig()
    config = pe.EncryptionConfiguration(
        footer_key="key", uniform_encryption=True, double_wrapping=False
    )
    keys = factory.file_encryption_properties(connection, config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    return factory.file_decryption_properties(connection)


SHIPPED = sorted((Path(pyarrow.tests.__file__).parent / "data" / "parquet").glob("*.parquet"))


def mixed(rows: int = 1000, *, views: bool = PYARROW > 19) -> pa.Table:
    """A table of many types, with nulls and nesting.

    views: string views, too; pyarrow 19 writes none to Parquet.
    """
    rng = np.random.default_rng(0)
    nulls = rng.random(rows) < 0.2
    text = [f"text {i % 17}" for i in range(rows)]
    start = datetime.datetime(2020, 1, 1)
    view = {"view": pa.array(text, pa.string_view())} if views else {}
    return pa.table(
        view
        | {
            "i": pa.array(np.arange(rows)),
            "f": pa.array(rng.random(rows), mask=nulls),
            "s": pa.array(text, mask=nulls),
            "large": pa.array(text, pa.large_string()),
            "b": pa.array([t.encode() for t in text], mask=nulls),
            "flag": pa.array(nulls),
            "d": pa.array(rng.integers(0, 10**6, rows)).cast(pa.decimal128(21, 2)),
            "day": pa.array([start.date()] * rows),
            "t": pa.array([start + datetime.timedelta(hours=i) for i in range(rows)]),
            "zoned": pa.array([start] * rows, pa.timestamp("us", "Europe/Rome")),
            "nothing": pa.nulls(rows),
            "dict": pa.array(text).dictionary_encode(),
            "list": pa.array([[i, None] if i % 3 else None for i in range(rows)]),
            "fixed": pa.array([[i, i + 1] for i in range(rows)], pa.list_(pa.int32(), 2)),
            "map": pa.array([[("k", i)] if i % 5 else [] for i in range(rows)], MAP),
            "struct": pa.array(
                [
                    {"a": i, "b": {"c": text[i], "d": None if i % 7 else i}} if i % 4 else None
                    for i in range(rows)
                ]
            ),
            "deep": pa.array([[{"u": i, "v": [text[i]]}] for i in range(rows)]),
            "with.dot": pa.array(np.arange(rows)),
        },
        metadata={"made": "by a test"},
    )


MAP = pa.map_(pa.string(), pa.int32())
