"""The readers take what pyarrow's take, with the same meaning."""

import inspect
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from tests.helpers.parquet import assert_reads_like_pyarrow, assert_same, write_encrypted
from tests.helpers.pyarrows import PYARROW, needs_extensions_by_option, needs_uniform_encryption
from zerrow_store import decache

PYARROWS = [p for p in inspect.signature(pq.read_table).parameters if p != "use_legacy_dataset"]
"""Arguments of its `read_table`; the one that means nothing any more is only in old ones."""

READERS = [
    (decache.read_parquet, pq.read_table),
    (decache.read_feather, pyarrow.feather.read_table),
    (decache.read_csv, pyarrow.csv.read_csv),
    (decache.read_json, pyarrow.json.read_json),
]

NOT_DEFAULT = {
    "columns": ["text"],
    "use_threads": False,
    "schema": pa.schema([("number", pa.int32()), ("text", pa.large_string())]),
    "use_pandas_metadata": True,
    "read_dictionary": ["text"],
    "binary_type": pa.large_binary(),
    "list_type": pa.LargeListType,
    "memory_map": True,
    "buffer_size": 100,
    "partitioning": None,
    "filesystem": pa.fs.LocalFileSystem(),
    "filters": [("number", ">", 500)],
    "ignore_prefixes": ["f"],
    "pre_buffer": False,
    "coerce_int96_timestamp_unit": "ms",
    "decryption_properties": None,
    "thrift_string_size_limit": 10,
    "thrift_container_size_limit": 10,
    "schema_depth_limit": 2,
    "page_checksum_verification": True,
    "arrow_extensions_enabled": False,
}


@pytest.fixture
def table():
    numbers = list(range(1000))
    texts = [json.dumps({"n": n}) for n in numbers]
    return pa.table(
        {
            "number": numbers,
            "text": texts,
            "lists": [[n] for n in numbers],
            "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts)),
        }
    )


@pytest.mark.parametrize(("ours", "pyarrows"), READERS, ids=lambda read: read.__name__)
def test_signatures_are_pyarrows(ours, pyarrows):
    # The first one is where the table comes from, which has several names in pyarrow.
    own, theirs = ([*inspect.signature(read).parameters.values()] for read in (ours, pyarrows))
    theirs = [p for p in theirs if p.name != "use_legacy_dataset"]
    described = [{p.name: (p.kind, p.default) for p in some[1:]} for some in (own, theirs)]
    assert described[0].items() >= described[1].items()
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [[p.name for p in some[1:] if p.kind is positional] for some in (own, theirs)]
    assert names[0] == names[1]


def test_each_argument_is_tried():
    assert [name for name in NOT_DEFAULT if name in PYARROWS] == PYARROWS[1:]
    if PYARROW >= 26:  # older ones lack some
        assert [*NOT_DEFAULT] == PYARROWS[1:]


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param(name, marks=needs_extensions_by_option)
        if name == "arrow_extensions_enabled"
        else name
        for name in NOT_DEFAULT
    ],
)
@pytest.mark.parametrize("layout", ["file", "folder", "files"])
def test_arguments_of_read_parquet(client, tmp_path, table, argument, layout):
    folder = tmp_path / "folder"
    folder.mkdir()
    files = [folder / "first.parquet", folder / "second.parquet"]
    for path in files:
        pq.write_table(table, path, use_deprecated_int96_timestamps=True, row_group_size=400)
    source = {"file": str(files[0]), "folder": str(folder), "files": list(map(str, files))}[layout]
    assert_reads_like_pyarrow(client, source, **{argument: NOT_DEFAULT[argument]})
    # What others have left in the cache is not given out where pyarrow would raise.
    decache.read_parquet(source, client=client)
    assert_reads_like_pyarrow(client, source, **{argument: NOT_DEFAULT[argument]})


@needs_uniform_encryption
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_encrypted_files_are_read_with_their_keys(client, tmp_path, table, layout):
    path = tmp_path / "secret.parquet"
    properties = write_encrypted(table, path)
    source = {"file": path, "folder": tmp_path}[layout]
    for _ in range(2):
        got = decache.read_parquet(source, client=client, decryption_properties=properties)
        assert_same(got, pq.read_table(source, decryption_properties=properties))
    assert client.cache_list() == []


def test_a_pool_of_the_callers_own_is_used(client, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "t.json").write_text('{"a": 1}\n')
    pools = []
    for read, name in ((decache.read_csv, "t.csv"), (decache.read_json, "t.json")):
        pools.append(pa.proxy_memory_pool(pa.system_memory_pool()))
        got = read(tmp_path / name, client=client, memory_pool=pools[-1])
        assert got.num_rows == 1
        assert pools[-1].bytes_allocated() > 0
        del got  # before its pool
    assert client.cache_list() == []
