"""What is read is what `pyarrow.parquet.read_table` reads, cold and warm."""

import datetime
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.tests
import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers import arrow_strategies
from tests.helpers.parquet import SHIPPED, assert_reads_like_pyarrow, assert_same, mixed, write_any
from tests.helpers.pyarrows import needs_extensions_by_option, needs_views_in_parquet
from zerrow_store.decache import read_parquet


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "mixed.parquet")
    pq.write_table(mixed(), path, row_group_size=300)
    return path


@pytest.fixture
def filterable(tmp_path):
    """Without string views, for which Arrow has no filter."""
    path = str(tmp_path / "filterable.parquet")
    pq.write_table(mixed(views=False), path, row_group_size=300)
    return path


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda p: p.name)
@pytest.mark.parametrize("pandas", [False, True])
def test_files_shipped_with_pyarrow(client, shipped, pandas):
    assert_reads_like_pyarrow(client, str(shipped), use_pandas_metadata=pandas)
    columns = pq.read_schema(shipped).names[:2]
    assert_reads_like_pyarrow(client, str(shipped), columns=columns, use_pandas_metadata=pandas)


@pytest.mark.parametrize("compression", ["NONE", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("page_version", ["1.0", "2.0"])
def test_codecs_and_page_versions(client, tmp_path, compression, page_version):
    path = str(tmp_path / "f.parquet")
    pq.write_table(
        mixed(),
        path,
        compression=compression,
        data_page_version=page_version,
        row_group_size=170,
        data_page_size=512,
    )
    assert_reads_like_pyarrow(client, path)


@pytest.mark.parametrize(
    "written",
    [
        {"use_dictionary": False},
        {"write_statistics": False},
        {"store_schema": False},
        {"row_group_size": 1},
        {"row_group_size": 7},
        {"version": "1.0"},
        {"use_deprecated_int96_timestamps": True},
        {"write_page_index": True},
        {"write_page_checksum": True},
        {"use_byte_stream_split": ["f"], "use_dictionary": False},
        {"column_encoding": {"i": "DELTA_BINARY_PACKED"}, "use_dictionary": False},
        {"use_compliant_nested_type": False},
    ],
    ids=str,
)
def test_ways_of_writing(client, tmp_path, written):
    path = str(tmp_path / "f.parquet")
    pq.write_table(mixed(60), path, **written)
    assert_reads_like_pyarrow(client, path)
    assert_reads_like_pyarrow(client, path, filters=[("i", ">", 20), ("s", "!=", "text 3")])


@pytest.mark.parametrize(
    "columns",
    [
        [],
        ["i"],
        ["s", "i"],
        ["struct"],
        ["struct.a"],
        ["struct.b"],
        ["struct.b.c"],
        ["struct.b.d", "struct.a"],
        ["i", "i"],
        ["with.dot"],
        ["map", "deep", "list"],
        ["missing"],
        ["i", "missing"],
        ["struct.missing"],
        ["list.element"],
        ["deep.list.element.u"],
    ],
    ids=str,
)
def test_columns(client, path, columns):
    assert_reads_like_pyarrow(client, path, columns=columns)
    # And once more with everything cached.
    assert_reads_like_pyarrow(client, path)
    assert_reads_like_pyarrow(client, path, columns=columns)


@pytest.mark.parametrize("columns", [None, ["s"], ["i", "struct.a"]], ids=str)
@pytest.mark.parametrize(
    "filters",
    [
        [("i", "<", 10)],
        [("i", "<", 350), ("i", ">", 290)],
        [[("i", "=", 5)], [("i", "=", 900)]],
        [("i", ">", 10**9)],
        [("s", "in", ["text 1", "text 2"])],
        [("f", "<", 0.5), ("flag", "=", False)],
        [("t", ">", datetime.datetime(2020, 2, 1))],
        [("dict", "=", "text 4")],
        [("missing", "=", 4)],
        [("i", "=", "text")],
        pc.field("i") * 2 == 14,
        pc.field("struct", "a") > 990,
        pc.field("s").is_null(),
        (pc.field("i") > 990) | pc.field("f").is_null(),
        pc.is_in(pc.field("i"), pa.array([1, 500])),
        pc.scalar(False),
    ],
    ids=str,
)
def test_filters(client, filterable, filters, columns):
    assert_reads_like_pyarrow(client, filterable, filters=filters, columns=columns)


def test_filters_prune_row_groups(client, path):
    read_parquet(path, columns=["i", "f"], filters=[("i", "<", 250)], client=client)
    assert {(e.column, e.parts) for e in client.cache_list()} == {("i", 1), ("f", 1)}
    read_parquet(path, columns=["f"], filters=[("i", ">", 950)], client=client)
    assert sum(e.parts for e in client.cache_list()) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"read_dictionary": ["s"]},
        {"read_dictionary": ["s", "b", "large"]},
        {"binary_type": pa.large_binary()},
        {"binary_type": pa.binary_view()},
        {"list_type": pa.LargeListType},
        {"coerce_int96_timestamp_unit": "ms"},
        {"page_checksum_verification": True},
        pytest.param({"arrow_extensions_enabled": False}, marks=needs_extensions_by_option),
        {"use_threads": False},
        {"partitioning": None},
        {"schema": pa.schema([("i", pa.int64()), ("s", pa.string()), ("new", pa.int8())])},
        {"schema": pa.schema([("s", pa.large_string()), ("i", pa.int32())])},
        {"schema": pa.schema([("i", pa.string())])},
        {"schema": pa.schema([("s", pa.int64())])},
    ],
    ids=str,
)
def test_options(client, path, options):
    assert_reads_like_pyarrow(client, path)
    assert_reads_like_pyarrow(client, path, **options)
    assert_reads_like_pyarrow(client, path, filters=[("i", "<", 20)], **options)


def test_empty_files(client, tmp_path):
    path = str(tmp_path / "f.parquet")
    pq.write_table(mixed(0), path)
    assert_reads_like_pyarrow(client, path)
    assert_reads_like_pyarrow(client, path, columns=["struct.a", "i"], filters=[("i", ">", 3)])
    pq.ParquetWriter(path, mixed(0, views=False).schema).close()
    assert_reads_like_pyarrow(client, path)
    assert_reads_like_pyarrow(client, path, columns=["struct"], filters=[("i", ">", 3)])
    pq.write_table(pa.table({}), path)
    assert_reads_like_pyarrow(client, path)


def test_fields_of_the_same_name(client, tmp_path):
    path = str(tmp_path / "f.parquet")
    pq.write_table(pa.table([[1], [2], [3]], names=["a", "b", "a"]), path)
    assert_reads_like_pyarrow(client, path)
    assert_reads_like_pyarrow(client, path, columns=["b"])
    assert_reads_like_pyarrow(client, path, columns=["a"])
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(pa.table({"s": twice}), path)
    assert_reads_like_pyarrow(client, path)


@pytest.fixture
def folder(tmp_path):
    """A dataset in hive style whose files differ in their row groups."""
    table = mixed(200, views=False).drop_columns(["fixed"])
    table = table.append_column("year", pa.array([2000 + i % 3 for i in range(200)]))
    table = table.append_column("city", pa.array([["Rome", "Oslo"][i % 2] for i in range(200)]))
    root = str(tmp_path / "hive")
    pq.write_to_dataset(table, root, partition_cols=["year", "city"], max_rows_per_group=11)
    return root


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"columns": ["i", "year"]},
        {"columns": ["city"]},
        {"columns": ["year", "struct.b.c"], "filters": [("city", "=", "Rome")]},
        {"filters": [("year", ">", 2000), ("i", "<", 100)]},
        {"filters": [("year", "=", 1999)]},
        {"partitioning": None},
        {"partitioning": "hive", "filters": pc.field("year") == 2001},
        {"filters": pc.field("nowhere") == 2001},
        {"columns": []},
        {"use_threads": False},
    ],
    ids=str,
)
def test_folders(client, folder, options):
    assert_reads_like_pyarrow(client, folder, **options)


def test_lists_of_files_and_patterns(client, folder):
    files = sorted(str(p) for p in Path(folder).rglob("*.parquet"))
    assert_reads_like_pyarrow(client, files)
    assert_reads_like_pyarrow(client, files, columns=["s", "year"], filters=[("i", ">", 30)])
    assert_reads_like_pyarrow(client, files[:1])
    got = read_parquet(f"{folder}/*/city=Oslo/*.parquet", client=client)
    assert_same(got, pq.read_table([f for f in files if "Oslo" in f]))
    with pytest.raises(FileNotFoundError):
        read_parquet(f"{folder}/nothing*.parquet", client=client)


def test_files_of_differing_schemas(client, tmp_path):
    tables = [
        pa.table({"a": [1, 2], "b": ["x", "y"], "s": [{"p": 1}, {"p": 2}]}),
        pa.table({"b": ["z"], "a": pa.array([3], pa.int32()), "s": [{"p": 3}]}),
        pa.table({"a": [4], "s": [{"p": 4}]}),
        pa.table({"a": [5], "b": ["w"], "c": [1.5], "s": [{"p": 5, "q": 6}]}),
    ]
    for i, table in enumerate(tables):
        pq.write_table(table, tmp_path / f"{i}.parquet")
    files = [str(tmp_path / f"{i}.parquet") for i in range(4)]
    assert_reads_like_pyarrow(client, files)
    assert_reads_like_pyarrow(client, files[:3])
    assert_reads_like_pyarrow(client, files[1:])
    assert_reads_like_pyarrow(client, str(tmp_path), columns=["a", "b"], filters=[("a", ">", 1)])
    wider = pa.schema([("c", pa.float64()), ("a", pa.float64()), ("b", pa.large_string())])
    assert_reads_like_pyarrow(client, files, schema=wider)


def test_paths_of_all_kinds(client, path, monkeypatch):
    expected = pq.read_table(path)
    monkeypatch.chdir(os.path.dirname(path))
    for source in [Path(path), "mixed.parquet", f"file://{path}"]:
        assert_same(read_parquet(source, client=client), expected)
    with open(path, "rb") as file:
        assert_same(read_parquet(file, client=client), expected)
    assert_same(read_parquet(pa.OSFile(path), client=client), expected)
    assert {e.path for e in client.cache_list()} == {path}


@needs_views_in_parquet
@pytest.mark.parametrize("least", [-1, 0, 5])
def test_a_filter_over_a_type_that_cannot_be_filtered(client, tmp_path, least):
    path = write_any(tmp_path, pa.array([None, "a", None], pa.string_view()))
    for columns in (["x"], ["y"]):
        assert_reads_like_pyarrow(client, path, columns=columns, filters=[("y", ">", least)])


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(array=arrow_strategies.arrays())
def test_all_types(client, tmp_path, array):
    path = write_any(tmp_path, array)
    if path is not None:
        assert_reads_like_pyarrow(client, path)
        assert_reads_like_pyarrow(client, path, columns=["x"], filters=[("y", ">", 0)])
