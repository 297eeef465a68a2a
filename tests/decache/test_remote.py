"""Files of other machines: S3, by pyarrow and by s3fs, and HTTP. A changed one is read again."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from tests.helpers.remote_files import CREDENTIALS, HttpFiles, s3_server
from tests.helpers.stores import Store
from zerrow_store import read_csv, read_feather, read_json, read_parquet, scan
from zerrow_store.client.client import Client
from zerrow_store.decache.parquet_file import Decoder

ROWS = 1000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where S3 is served, with a bucket, `bucket`."""
    pytest.importorskip("moto.server")
    with s3_server() as served:
        native(served).create_dir("bucket")
        yield served


@pytest.fixture
def client(store: Store) -> Client:
    return store.connected()


def native(address: str) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        **CREDENTIALS, scheme="http", endpoint_override=address, allow_bucket_creation=True
    )


def s3fs(address: str) -> Any:
    pytest.importorskip("s3fs")
    return fsspec.filesystem(
        "s3",
        key=CREDENTIALS["access_key"],
        secret=CREDENTIALS["secret_key"],
        client_kwargs={"endpoint_url": f"http://{address}", "region_name": CREDENTIALS["region"]},
        skip_instance_cache=True,
    )


s3_file_systems = pytest.mark.parametrize("make", [native, s3fs])


def table(seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({"k": rng.integers(0, 1 << 40, ROWS), "x": rng.random(ROWS)})


def as_parquet(data: pa.Table) -> bytes:
    """Of the same size for all tables of the same schema and length."""
    sink = io.BytesIO()
    pq.write_table(data, sink, compression=None, use_dictionary=False, row_group_size=ROWS // 2)
    return sink.getvalue()


def store_file(address: str, path: str, data: bytes) -> None:
    with native(address).open_output_stream(path) as stream:
        stream.write(data)


def entries(client: Client) -> int:
    return len(client.cache_list())


def hits(client: Client) -> int:
    return sum(entry.hits for entry in client.cache_list())


@s3_file_systems
def test_an_object_is_decoded_once(
    client: Client, address: str, make: Callable[[str], Any]
) -> None:
    path = f"bucket/{make.__name__}/once.parquet"
    store_file(address, path, as_parquet(table()))
    for _ in range(3):
        got = read_parquet(path, filesystem=make(address), client=client)
        assert got.equals(table())
    assert (entries(client), hits(client)) == (2, 4)
    assert {entry.path for entry in client.cache_list()} == {f"s3://{path}"}


@s3_file_systems
def test_a_replaced_object_is_never_served(
    client: Client, address: str, make: Callable[[str], Any]
) -> None:
    """Of the same size, and most of them within the second that S3 tells."""
    path = f"bucket/{make.__name__}/replaced.parquet"
    filesystem = make(address)
    assert len(as_parquet(table(0))) == len(as_parquet(table(1)))
    for seed in range(8):
        store_file(address, path, as_parquet(table(seed)))
        for _ in range(2):
            got = read_parquet(path, filesystem=filesystem, client=client)
            assert got.equals(table(seed))
    assert (entries(client), hits(client)) == (2, 2)  # those of the others are dropped


@s3_file_systems
def test_an_object_that_is_replaced_while_it_is_decoded(
    client: Client, address: str, make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"bucket/{make.__name__}/torn.parquet"
    store_file(address, path, as_parquet(table(0)))
    decode = Decoder._decode_part
    replaced = []

    def decode_and_replace(self: Any, part: int, units: Any) -> Any:
        decoded = decode(self, part, units)
        if not replaced:
            replaced.append(part)
            store_file(address, path, as_parquet(table(1)))
        return decoded

    monkeypatch.setattr(Decoder, "_decode_part", decode_and_replace)
    for _ in range(2):
        got = read_parquet(path, filesystem=make(address), client=client, use_threads=False)
        assert got.equals(table(1))
    assert replaced
    assert entries(client) == 2


@s3_file_systems
def test_folders_and_scans(client: Client, address: str, make: Callable[[str], Any]) -> None:
    folder = f"bucket/{make.__name__}/folder"
    for n in range(3):
        store_file(address, f"{folder}/day={n}/f.parquet", as_parquet(table(n)))
    filesystem = make(address)
    expected = pq.read_table(folder, filesystem=filesystem, filters=[("day", ">", 0)])
    for _ in range(2):
        got = read_parquet(folder, filesystem=filesystem, filters=[("day", ">", 0)], client=client)
        assert got.equals(expected)
    assert (entries(client), hits(client)) == (4, 4)
    lines = scan(folder, filesystem=filesystem, client=client)
    assert lines.to_table(columns=["x"]).num_rows == 3 * ROWS
    assert (entries(client), hits(client)) == (5, 6)


def test_a_uri(client: Client, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS["secret_key"])
    store_file(address, "bucket/uri.parquet", as_parquet(table()))
    store_file(address, "bucket/uri.csv", b"a,b\n1,2\n")
    options = f"?scheme=http&endpoint_override={address}&region={CREDENTIALS['region']}"
    for _ in range(2):
        assert read_parquet(f"s3://bucket/uri.parquet{options}", client=client).equals(table())
        assert read_csv(f"s3://bucket/uri.csv{options}", client=client).to_pydict() == {
            "a": [1],
            "b": [2],
        }
    assert (entries(client), hits(client)) == (3, 3)


@s3_file_systems
def test_other_formats(client: Client, address: str, make: Callable[[str], Any]) -> None:
    folder, filesystem = f"bucket/{make.__name__}", make(address)
    for seed in range(2):
        data = table(seed)
        sink = io.BytesIO()
        feather.write_feather(data, sink, compression="zstd")
        store_file(address, f"{folder}/f.feather", sink.getvalue())
        sink = io.BytesIO()
        csv.write_csv(data, sink)
        store_file(address, f"{folder}/f.csv", sink.getvalue())
        store_file(address, f"{folder}/f.json", b'{"a": %d}\n' % seed)
        for _ in range(2):
            options = {"filesystem": filesystem, "client": client}
            assert read_feather(f"{folder}/f.feather", **options).equals(data)
            assert read_csv(f"{folder}/f.csv", **options)["k"].equals(data["k"])
            assert read_json(f"{folder}/f.json", **options).to_pydict() == {"a": [seed]}
    assert (entries(client), hits(client)) == (4, 4)


def test_another_process_finds_what_was_decoded(store: Store, address: str) -> None:
    client, other = store.connected(), store.worker()
    store_file(address, "bucket/shared.parquet", as_parquet(table()))
    read_parquet("bucket/shared.parquet", filesystem=native(address), client=client)
    rows = other.do(f"""
        from tests.decache.test_remote import native
        zerrow_store.read_parquet(
            "bucket/shared.parquet", filesystem=native({address!r}), client=client
        ).num_rows
    """)
    assert rows == ROWS
    assert (entries(client), hits(client)) == (2, 2)


def test_what_may_not_be_read_is_not_served(client: Client, address: str) -> None:
    """What the cache has of another endpoint, or of other credentials, is no answer."""
    store_file(address, "bucket/mine.parquet", as_parquet(table()))
    read_parquet("bucket/mine.parquet", filesystem=native(address), client=client)
    with s3_server() as other:
        native(other).create_dir("bucket")
        with pytest.raises(FileNotFoundError):
            read_parquet("bucket/mine.parquet", filesystem=native(other), client=client)
    gone = "bucket/gone.parquet"
    store_file(address, gone, as_parquet(table()))
    read_parquet(gone, filesystem=native(address), client=client)
    native(address).delete_file(gone)
    with pytest.raises(FileNotFoundError):
        read_parquet(gone, filesystem=native(address), client=client)


# --- HTTP ---


@pytest.fixture
def http() -> Iterator[HttpFiles]:
    files = HttpFiles()
    yield files
    files.close()


def web() -> Any:
    return fsspec.filesystem("http", skip_instance_cache=True)


def test_http_with_an_etag(client: Client, http: HttpFiles) -> None:
    url = f"{http.url}/f.parquet"
    for seed in range(3):
        http.files["f.parquet"] = as_parquet(table(seed))
        for _ in range(2):
            got = read_parquet(url, filesystem=web(), client=client)
            assert got.equals(table(seed))
    assert {entry.path for entry in client.cache_list()} == {url}
    assert hits(client) == 2  # of the last one; the others are dropped
    before = http.data
    read_parquet(url, filesystem=web(), client=client)
    decoding = before // 6
    assert http.data - before < decoding  # the footer, at most


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_http_without_a_mark_of_the_version_is_not_cached(
    client: Client, http: HttpFiles, etag: str | None
) -> None:
    http.etag = lambda name: etag
    for seed in range(2):
        http.files["f.parquet"] = as_parquet(table(seed))
        got = read_parquet(f"{http.url}/f.parquet", filesystem=web(), client=client)
        assert got.equals(table(seed))
    assert client.cache_list() == []
