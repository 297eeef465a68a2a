"""Fragments of datasets: the batches of pyarrow's own scanner, cold and warm."""

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers import arrow_strategies
from tests.helpers.parquet import SHIPPED, assert_same, mixed, outcome, write_any, write_encrypted
from tests.helpers.pyarrows import (
    needs_extensions_by_option,
    needs_types_by_option,
    needs_uniform_encryption,
    needs_views_in_parquet,
)
from zerrow_store.decache import parquet, parquet_read
from zerrow_store.decache.fragments import CachedFragment
from zerrow_store.decache.parquet_file import Decoder


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "mixed.parquet")
    pq.write_table(mixed(views=False), path, row_group_size=300)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The column chunks that are decoded, each noted when it is."""
    chunks = []
    original = Decoder.decode

    def decode(self, wanted):
        chunks.extend((unit[1], part) for unit, parts in wanted.items() for part in parts)
        return original(self, wanted)

    monkeypatch.setattr(Decoder, "decode", decode)
    return chunks


def fragment_of(path, format=None, **options):
    format = ds.ParquetFileFormat() if format is None else format
    return format.make_fragment(str(path), pafs.LocalFileSystem(), **options)


def assert_scans_like_pyarrow(client, path, row_groups=None, format=None, **options):
    """The same batches, of the same sizes, or the same kind of error."""

    def batches(fragment):
        part = fragment if row_groups is None else fragment.subset(row_group_ids=row_groups)
        return [b for b in part.to_batches(**options) if b.num_rows]

    expected = outcome(lambda: batches(fragment_of(path, format)))
    for _ in range(2):
        got = outcome(lambda: batches(CachedFragment(fragment_of(path, format), client)))
        if isinstance(expected, Exception):
            assert_same(got, expected)
            continue
        assert not isinstance(got, Exception), got
        assert [b.num_rows for b in got] == [b.num_rows for b in expected]
        for ours, theirs in zip(got, expected, strict=True):
            assert_same(*(_table(batch) for batch in (ours, theirs)))


def _table(batch):
    # `pa.Table.from_batches` has no rows for batches without columns.
    return (
        pa.Table.from_batches([batch]) if batch.num_columns else pa.table({"": range(len(batch))})
    )


@pytest.mark.parametrize("row_groups", [None, [0], [1, 3], [2, 1], [], [9]], ids=str)
@pytest.mark.parametrize("batch_size", [7, 300, 131_072])
def test_row_groups_and_sizes(client, path, row_groups, batch_size):
    assert_scans_like_pyarrow(client, path, row_groups, batch_size=batch_size)
    condition = pc.bit_wise_and(pc.field("i"), 3) == 0
    assert_scans_like_pyarrow(client, path, row_groups, batch_size=batch_size, filter=condition)


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["s", "i"]},
        {"columns": []},
        {"columns": [], "filter": pc.field("i") > 400},
        {"columns": ["struct.b.c"]},
        {"columns": {"twice": pc.field("i") * 2}},
        {"columns": ["missing"]},
        {"filter": pc.field("missing") > 3},
        {"filter": pc.field("i") > 10**9},
        {"filter": pc.field("i") == "text"},
        {"schema": pa.schema([("s", pa.large_string()), ("new", pa.int8()), ("i", pa.int32())])},
        {"schema": pa.schema([("s", pa.int64())])},
        {"schema": pa.schema([]), "filter": pc.scalar(True)},
        {"schema": mixed().schema.remove(0), "columns": ["i"]},
        {"use_threads": False, "batch_readahead": 1, "fragment_readahead": 1},
        {"batch_size": 0},
        {"batch_size": None},
        {"nonsense": 1},
        pytest.param(
            {"fragment_scan_options": ds.ParquetFragmentScanOptions(use_buffered_stream=True)},
            id="buffered",
        ),
        pytest.param(
            {
                "fragment_scan_options": ds.ParquetFragmentScanOptions(
                    page_checksum_verification=True
                )
            },
            id="checksums",
        ),
    ],
    ids=str,
)
def test_options(client, path, options):
    assert_scans_like_pyarrow(client, path, **options)
    assert_scans_like_pyarrow(client, path, [0, 2], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"dictionary_columns": ["s", "b"]},
        {"coerce_int96_timestamp_unit": "ms"},
        pytest.param({"binary_type": pa.large_binary()}, marks=needs_types_by_option),
        pytest.param({"list_type": pa.LargeListType}, marks=needs_types_by_option),
        {"thrift_string_size_limit": 10},
        pytest.param({"arrow_extensions_enabled": True}, marks=needs_extensions_by_option),
    ],
    ids=str,
)
def test_formats(client, tmp_path, options):
    path = tmp_path / "f.parquet"
    table = mixed().select(["s", "b", "t", "list"])
    table = table.append_column("json", pa.array(["{}"] * 1000).cast(pa.json_()))
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, row_group_size=400)
    assert_scans_like_pyarrow(client, path, format=ds.ParquetFileFormat(**options))
    assert_scans_like_pyarrow(client, path)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda p: p.name)
def test_files_shipped_with_pyarrow(client, shipped):
    assert_scans_like_pyarrow(client, shipped)
    assert_scans_like_pyarrow(client, shipped, [0])


@needs_views_in_parquet
@pytest.mark.parametrize("least", [-1, 0, 5])
def test_a_filter_over_a_type_that_cannot_be_filtered(client, tmp_path, least):
    path = write_any(tmp_path, pa.array([None, "a", None], pa.string_view()))
    for columns in (["x"], ["y"]):
        assert_scans_like_pyarrow(client, path, columns=columns, filter=pc.field("y") > least)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(array=arrow_strategies.arrays())
def test_all_types(client, tmp_path, array):
    path = write_any(tmp_path, array)
    if path is not None:
        assert_scans_like_pyarrow(client, path, batch_size=3)
        assert_scans_like_pyarrow(client, path, columns=["x"], filter=pc.field("y") > 0)


@needs_uniform_encryption
def test_encrypted_files(client, tmp_path):
    path = tmp_path / "secret.parquet"
    keys = write_encrypted(pa.table({"k": range(10)}), path)
    options = ds.ParquetFragmentScanOptions(decryption_properties=keys)
    format = ds.ParquetFileFormat(default_fragment_scan_options=options)
    assert_scans_like_pyarrow(client, path, format=format)
    assert_scans_like_pyarrow(client, path, format=format, fragment_scan_options=options)
    assert_scans_like_pyarrow(client, path)
    assert CachedFragment(fragment_of(path, format), client).physical_schema.names == ["k"]
    assert client.cache_list() == []


def test_what_a_fragment_says_of_its_file(client, path):
    plain, cached = fragment_of(path), CachedFragment(fragment_of(path), client)
    for ids in (None, [1, 2]):
        if ids is not None:
            plain, cached = plain.subset(row_group_ids=ids), cached.subset(row_group_ids=ids)
        assert cached.physical_schema.equals(plain.physical_schema, check_metadata=True)
        assert cached.metadata.equals(plain.metadata)
        assert [g.id for g in cached.row_groups] == [g.id for g in plain.row_groups]
        assert [g.statistics for g in cached.row_groups] == [g.statistics for g in plain.row_groups]
        assert cached.path == path
        condition = pc.field("i") < 400
        kept = cached.subset(filter=condition).row_groups
        assert [g.id for g in kept] == [g.id for g in plain.subset(filter=condition).row_groups]
        assert cached.count_rows() == plain.count_rows()


def test_a_partition(client, path):
    partition = pc.field("year") == 2024
    schema = pa.schema([("i", pa.int64()), ("year", pa.int32())])
    plain = fragment_of(path, partition_expression=partition)
    for condition in (None, pc.field("year") == 2024, pc.field("year") == 2023):
        got = CachedFragment(plain, client).to_batches(schema, filter=condition)
        expected = plain.to_batches(schema=schema, filter=condition)
        assert_same(*(pa.Table.from_batches(b, schema) for b in (got, expected)))


def test_a_footer_is_read_once(client, path, monkeypatch):
    opened = []
    original = pq.ParquetFile.__init__

    def init(self, source, *args, metadata=None, **options):
        if metadata is None:
            opened.append(source)
        original(self, source, *args, metadata=metadata, **options)

    schema = pq.read_schema(path).append(pa.field("new", pa.int8()))
    monkeypatch.setattr(pq.ParquetFile, "__init__", init)
    for _ in range(2):
        whole = CachedFragment(fragment_of(path), client)
        for group in range(whole.metadata.num_row_groups):
            part = whole.subset(row_group_ids=[group])
            assert part.physical_schema is not None
            list(part.to_batches(schema, filter=pc.field("i") > 5))
    assert len(opened) == 1
    # pyarrow's own fragment has not read it at all: now it would not find the file.
    os.unlink(path)
    with pytest.raises(FileNotFoundError):
        _ = whole._whole.metadata


def test_the_same_columns_as_other_readers(client, path):
    parquet.read_parquet(path, client=client)
    before = {entry.object_id for entry in client.cache_list()}
    options = ds.ParquetFragmentScanOptions(use_buffered_stream=True, buffer_size=1 << 23)
    batches = CachedFragment(fragment_of(path), client).to_batches(fragment_scan_options=options)
    assert sum(b.num_rows for b in batches) == 1000
    assert {entry.object_id for entry in client.cache_list()} == before


def test_only_the_named_row_groups_are_decoded(client, path, decoded):
    part = CachedFragment(fragment_of(path), client).subset(row_group_ids=[1, 3])
    list(part.to_batches(columns=["i"], filter=pc.field("i") < 600))
    assert decoded == [("i", 1)]


def test_what_is_not_asked_for_is_not_decoded(client, path, decoded, monkeypatch):
    monkeypatch.setattr(parquet_read, "_WINDOW_BYTES", 1)
    batches = CachedFragment(fragment_of(path), client).to_batches(columns=["i"], batch_size=100)
    assert decoded == [("i", 0)]
    assert [next(batches).num_rows for _ in range(4)] == [100] * 4
    assert decoded == [("i", 0), ("i", 1)]
    assert sum(b.num_rows for b in batches) == 600


def test_a_file_that_changes_between_two_scans(client, path):
    fragment = CachedFragment(fragment_of(path), client)
    assert next(fragment.to_batches(columns=["i"]))["i"][0].as_py() == 0
    pq.write_table(pa.table({"i": [7]}), path)
    assert_scans_like_pyarrow(client, path)
    # Also one that said what was in the file before.
    assert next(fragment.to_batches(columns=["i"]))["i"].to_pylist() == [7]


def test_a_file_that_changes_during_a_scan(client, path, monkeypatch):
    monkeypatch.setattr(parquet_read, "_WINDOW_BYTES", 1)
    batches = CachedFragment(fragment_of(path), client).to_batches(columns=["i"])
    next(batches)
    pq.write_table(pa.table({"i": [7]}), path)
    with pytest.raises(OSError, match="changed while it was read"):
        list(batches)


def test_without_an_identity_pyarrow_reads(client, path, decoded):
    memory = fsspec.filesystem("memory")
    memory.pipe("/mixed.parquet", Path(path).read_bytes())
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(memory))
    plain = ds.ParquetFileFormat().make_fragment("/mixed.parquet", filesystem)
    got = CachedFragment(plain, client).to_batches(columns=["i"])
    assert sum(b.num_rows for b in got) == 1000
    assert decoded == []
    assert client.cache_list() == []
