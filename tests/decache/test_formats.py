"""Arrow, Feather, CSV and JSON files: what pyarrow reads, decoded once."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.json as json
import pyarrow.tests
import pytest
from hypothesis import HealthCheck, given, settings

from tests.helpers import arrow_strategies
from tests.helpers.parquet import assert_same, outcome
from tests.helpers.pyarrows import breaks_slices
from zerrow_store.decache import read_csv, read_feather, read_ipc, read_json

SHIPPED = sorted((Path(pyarrow.tests.__file__).parent / "data" / "feather").glob("*.feather"))


def table(rows: int = 5000) -> pa.Table:
    return pa.table(
        {
            "i": range(rows),
            "s": [f"text {i % 9}" if i % 4 else None for i in range(rows)],
            "d": pa.array([f"word {i % 5}" for i in range(rows)]).dictionary_encode(),
            "l": [[i] * (i % 3) for i in range(rows)],
        },
        metadata={"made": "by a test"},
    )


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "f")


def write_ipc(path, data, compression=None, **options):
    write_options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, data.schema, options=write_options) as writer:
        writer.write_table(data, **options)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_arrow_files_are_cached_by_column(client, path, compression):
    write_ipc(path, table(), compression, max_chunksize=700)
    got = read_ipc(path, columns=["s", "i"], client=client)
    assert_same(got, table().select(["s", "i"]))
    assert sorted(entry.column for entry in client.cache_list()) == ["0:i", "1:s"]
    for _ in range(2):
        assert_same(read_ipc(path, client=client), table())
    assert sum(entry.hits for entry in client.cache_list()) == 2 + 4
    assert client.stats().bytes_copied == 0


def test_uncompressed_arrow_files_are_read_in_place(client, path):
    write_ipc(path, table())
    got = read_ipc(path, client=client)
    assert_same(got, table())
    maps = Path("/proc/self/maps").read_text().splitlines()
    (line,) = [line for line in maps if line.endswith(path)]
    start, end = (int(text, 16) for text in line.split()[0].split("-"))
    assert start <= got.column("i").chunk(0).buffers()[1].address < end
    assert client.cache_list() == []
    assert_same(read_ipc(path, columns=["d"], client=client), table().select(["d"]))


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("columns", [None, ["i"], ["d", "i"], [2, 0], [], ["missing"]], ids=str)
def test_feather(client, path, compression, columns):
    feather.write_feather(table(), path, compression=compression)
    expected = outcome(lambda: feather.read_table(path, columns))
    for _ in range(2):
        got = outcome(lambda: read_feather(path, columns, client=client))
        if columns == [2, 0]:  # pyarrow fails: it selects by these indices what it has selected
            expected = feather.read_table(path).select(columns)
        if isinstance(expected, Exception):
            assert isinstance(got, Exception)
        else:
            assert_same(got, expected)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda p: p.name)
def test_feather_files_shipped_with_pyarrow(client, shipped):
    for _ in range(2):
        assert_same(read_feather(str(shipped), client=client), feather.read_table(str(shipped)))


def test_arrow_files_without_rows(client, path):
    for data in (table(0), pa.table({}), pa.table({"x": pa.nulls(0)})):
        for compression in (None, "zstd"):
            write_ipc(path, data, compression)
            assert_same(read_ipc(path, client=client), data)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(array=arrow_strategies.arrays())
def test_arrow_files_of_all_types(client, tmp_path, array):
    path = str(tmp_path / "f.arrow")
    data = pa.table({"x": array})
    for compression in (None, "lz4"):
        if isinstance(outcome(lambda c=compression: write_ipc(path, data, c)), Exception):
            return
        with pa.OSFile(path) as file:
            expected = outcome(lambda f=file: pa.ipc.open_file(f).read_all())
        if isinstance(expected, pa.Table) and breaks_slices(expected):
            return
        for _ in range(2):
            assert_same(outcome(lambda: read_ipc(path, client=client)), expected)


@pytest.mark.parametrize("read", [read_ipc, read_feather, read_csv, read_json])
def test_missing_and_damaged_files(client, path, read):
    with pytest.raises(FileNotFoundError, match=path):
        read(path, client=client)
    Path(path).write_bytes(b'{"a": 1}\n{"a": "x"}\n,"\n"')
    for _ in range(2):
        with pytest.raises(pa.ArrowException, match=path):
            read(path, client=client)
    write_ipc(path, table(), "zstd")
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])
    with pytest.raises((pa.ArrowException, OSError), match=path):
        read(path, client=client)
    assert client.cache_list() == []


@pytest.fixture
def csv_path(tmp_path):
    path = str(tmp_path / "f.csv")
    csv.write_csv(table().drop_columns(["l"]), path)
    return path


CSV_OPTIONS = [
    [],
    [csv.ReadOptions(block_size=2000)],
    [csv.ReadOptions(column_names=["a", "b", "c"], skip_rows=3)],
    [None, csv.ParseOptions(quote_char=False)],
    [None, None, csv.ConvertOptions(include_columns=["s"])],
    [None, None, csv.ConvertOptions(column_types={"i": pa.float32()})],
    [None, None, csv.ConvertOptions(auto_dict_encode=True)],
    [None, None, csv.ConvertOptions(timestamp_parsers=[csv.ISO8601, "%Y"])],
]


def test_csv(client, csv_path):
    for hits in range(2):
        for options in CSV_OPTIONS:
            expected = outcome(lambda o=options: csv.read_csv(csv_path, *o))
            assert_same(outcome(lambda o=options: read_csv(csv_path, *o, client=client)), expected)
        # Each way of reading is an entry of its own.
        assert len(client.cache_list()) == len(CSV_OPTIONS)
        assert sum(e.hits for e in client.cache_list()) == hits * len(CSV_OPTIONS)


def test_csv_with_a_function_of_this_process_is_not_cached(client, csv_path):
    parse = csv.ParseOptions(invalid_row_handler=lambda row: "skip")
    for _ in range(2):
        assert_same(read_csv(csv_path, None, parse, client=client), csv.read_csv(csv_path))
    assert client.cache_list() == []


def test_compressed_text(client, tmp_path, csv_path):
    compressed = str(tmp_path / "f.csv.gz")
    Path(compressed).write_bytes(gzip.compress(Path(csv_path).read_bytes()))
    for _ in range(2):
        assert_same(read_csv(compressed, client=client), csv.read_csv(compressed))
    assert len(client.cache_list()) == 1


@pytest.mark.parametrize(
    "options",
    [
        [],
        [json.ReadOptions(block_size=300)],
        [None, json.ParseOptions(explicit_schema=pa.schema([("i", pa.int8()), ("n", pa.int8())]))],
        [None, json.ParseOptions(explicit_schema=pa.schema([("s", pa.string())]))],
    ],
)
def test_json(client, path, options):
    lines = [f'{{"i": {i % 100}, "s": "t{i}", "o": {{"p": [{i}]}}}}' for i in range(500)]
    Path(path).write_text("\n".join(lines))
    expected = outcome(lambda: json.read_json(path, *options))
    for _ in range(2):
        assert_same(outcome(lambda: read_json(path, *options, client=client)), expected)
    assert len(client.cache_list()) == 1
