"""`scan`: what duckdb, polars and others ask of it, and that the cache answers."""

import gc
import pickle
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.helpers.stores import Store
from zerrow_store import scan
from zerrow_store.client.client import Client

ROWS = 10_000


@pytest.fixture
def client(store: Store) -> Client:
    return store.connected()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of two row groups, in partitions."""
    rng = np.random.default_rng(0)
    for year in 2024, 2025:
        (tmp_path / f"year={year}").mkdir()
        table = pa.table(
            {
                "k": np.arange(ROWS) + ROWS * (year - 2024),
                "x": rng.random(ROWS),
                "s": [f"row {i}" for i in range(ROWS)],
                "n": pa.array([None, 1, 2, 3] * (ROWS // 4)),
            }
        )
        pq.write_table(table, tmp_path / f"year={year}" / "f.parquet", row_group_size=ROWS // 2)
    return tmp_path


def decoded(client: Client) -> set[str]:
    """The columns that the cache has."""
    gc.collect()
    return {entry.column for entry in client.cache_list()}


def hits(client: Client) -> int:
    return sum(entry.hits for entry in client.cache_list())


def test_a_scan_is_pyarrows_dataset(client, folder) -> None:
    expected = ds.dataset(folder, format="parquet", partitioning="hive")
    lines = scan(str(folder), client=client)
    assert lines.schema == expected.schema
    assert decoded(client) == set()
    assert lines.to_table() == expected.to_table()
    assert decoded(client) == {"k", "x", "s", "n"}
    condition = (pc.field("k") > ROWS + 7) & (pc.field("year") == 2025)
    for arguments in (
        {"columns": ["s", "k"]},
        {"filter": condition},
        {"columns": ["x"], "filter": condition},
        {"columns": []},
        {"columns": {"twice": pc.field("k") * 2}},
        {"columns": ["year"], "batch_size": 100},
    ):
        assert lines.to_table(**arguments) == expected.to_table(**arguments)
        assert lines.count_rows(filter=arguments.get("filter")) == expected.count_rows(
            filter=arguments.get("filter")
        )
    assert lines.head(5, columns=["k"]) == expected.head(5, columns=["k"])
    assert lines.take([3, ROWS + 1]) == expected.take([3, ROWS + 1])
    for wrong in {"columns": ["nothing"]}, {"filter": pc.field("nothing") > 0}:
        with pytest.raises(pa.ArrowInvalid, match="nothing"):
            lines.to_table(**wrong)


def test_batches_are_decoded_as_they_are_taken(client, folder) -> None:
    lines = scan(str(folder), client=client)
    batches = lines.to_batches(columns=["k"])
    next(batches)
    assert len(client.cache_list()) == 1
    assert sum(batch.num_rows for batch in batches) == 2 * ROWS - ROWS // 2
    assert len(client.cache_list()) == 2


def test_duckdb_hands_over_columns_and_filters(client, folder) -> None:
    lines = scan(f"{folder}/*/f.parquet", client=client)
    connection = duckdb.connect()
    connection.register("lines", lines)
    query = "SELECT sum(x) FROM lines WHERE k >= 15000"
    expected = pc.sum(ds.dataset(folder).to_table(filter=pc.field("k") >= 15_000)["x"]).as_py()
    assert connection.sql(query).fetchall() == [(pytest.approx(expected),)]
    assert decoded(client) == {"k", "x"}
    # The file without such rows is not decoded.
    assert len(client.cache_list()) == 2
    before = hits(client)
    assert connection.sql(query).fetchall() == [(pytest.approx(expected),)]
    assert hits(client) == before + 2
    assert connection.sql("SELECT count(*) FROM lines").fetchall() == [(2 * ROWS,)]


def test_polars_hands_over_columns_and_filters(client, folder) -> None:
    lines = scan(str(folder), client=client)
    query = pl.scan_pyarrow_dataset(lines).filter(pl.col("k") >= 15_000).select(pl.col("x").sum())
    expected = pc.sum(ds.dataset(folder).to_table(filter=pc.field("k") >= 15_000)["x"]).as_py()
    for _ in range(2):
        assert query.collect().item() == pytest.approx(expected)
    assert decoded(client) == {"k", "x"}
    assert len(client.cache_list()) == 2
    assert hits(client) == 2


def test_what_takes_arrow_streams_takes_a_scan(client, folder) -> None:
    lines = scan(str(folder), client=client)
    expected = ds.dataset(folder, partitioning="hive").to_table()
    assert pa.table(lines) == expected
    assert pl.DataFrame(lines).equals(pl.from_arrow(expected))
    assert pa.schema(lines) == expected.schema


def test_a_requested_schema_is_what_is_decoded(client, folder) -> None:
    lines = scan(str(folder), client=client)
    wanted = pa.schema([("x", pa.float32()), ("k", pa.int64())])
    got = pa.RecordBatchReader.from_stream(lines, wanted).read_all()
    assert got == ds.dataset(folder).to_table(columns=["x", "k"]).cast(wanted)
    assert decoded(client) == {"k", "x"}


def test_a_file_that_changes_amid_a_scan_is_an_error(client, folder, monkeypatch) -> None:
    monkeypatch.setattr("zerrow_store.decache.parquet_read._WINDOW_BYTES", 1 << 20)
    path = folder / "year=2024" / "f.parquet"
    big = pa.table({"k": np.arange(500_000)})  # more than is fetched at a time
    pq.write_table(big, path, row_group_size=100_000, use_dictionary=False, compression=None)
    batches = scan(str(path), client=client).to_batches()
    next(batches)
    pq.write_table(pa.table({"k": np.arange(ROWS)}), path)
    with pytest.raises(OSError, match="changed while it was read"):
        list(batches)


def test_a_changed_file_is_decoded_again(client, folder) -> None:
    path = folder / "year=2024" / "f.parquet"
    lines = scan(str(path), client=client)
    lines.to_table(columns=["k"])
    changed = pa.table({"k": np.arange(ROWS) * 3})
    pq.write_table(changed, path)
    assert scan(str(path), client=client).to_table(columns=["k"]) == changed
    assert lines.to_table(columns=["k"]) == changed  # of the same schema


def test_what_is_made_of_a_scan_reads_the_same(client, folder) -> None:
    lines = scan(str(folder), client=client)
    expected = ds.dataset(folder, partitioning="hive")
    condition = pc.field("k") < 3
    assert lines.filter(condition).to_table() == expected.filter(condition).to_table()
    assert pickle.loads(pickle.dumps(lines)).to_table() == expected.to_table()
    assert decoded(client) == set()


def test_without_a_store_a_scan_is_pyarrows(folder, monkeypatch) -> None:
    monkeypatch.setattr("zerrow_store.decache.dataset.default_client", lambda: None)
    lines = scan(str(folder))
    assert lines.to_table() == ds.dataset(folder, partitioning="hive").to_table()


def test_what_is_not_there(client, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(str(tmp_path / "nothing.parquet"), client=client)
