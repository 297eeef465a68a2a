"""`read_csv`, `read_json`: a text file is decoded once, as one struct column."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.json as json

from zerrow_store.client.client import Client
from zerrow_store.decache.errors import is_decode_error, with_path
from zerrow_store.decache.fetch import Decoded, DecodeFailedError, Wanted, fetch
from zerrow_store.decache.files import OpenFile
from zerrow_store.decache.sources import read_stable
from zerrow_store.decache.store import default_client
from zerrow_store.protocol.fields import Unit

# By extension, as in pyarrow.
_CODECS = {".bz2": "bz2", ".gz": "gzip", ".lz4": "lz4", ".zst": "zstd"}


def read_csv(
    source: Any,
    read_options: csv.ReadOptions | None = None,
    parse_options: csv.ParseOptions | None = None,
    convert_options: csv.ConvertOptions | None = None,
    memory_pool: pa.MemoryPool | None = None,
    *,
    filesystem: Any = None,
    client: Client | None = None,
) -> pa.Table:
    """Read a table from CSV, decoded once on this machine for the same options.

    Parameters and results are those of `pyarrow.csv.read_csv`, with the exceptions below. A file
    is decompressed by its extension, as there.

    Parameters
    ----------
    memory_pool
        If given, the file is decoded into this pool, and not cached.
    filesystem
        The pyarrow file system of `source`.
    client
        As for `read_parquet`.
    """
    options = [read_options, parse_options, convert_options]

    def decode(stream: Any) -> pa.Table:
        return csv.read_csv(stream, *options, memory_pool=memory_pool)

    cached = memory_pool is None
    return _read(source, filesystem, client, "csv", options, decode, cached)


def read_json(
    source: Any,
    read_options: json.ReadOptions | None = None,
    parse_options: json.ParseOptions | None = None,
    memory_pool: pa.MemoryPool | None = None,
    *,
    filesystem: Any = None,
    client: Client | None = None,
) -> pa.Table:
    """Read a table from lines of JSON, decoded once on this machine for the same options.

    Parameters and results are those of `pyarrow.json.read_json`, with the exceptions below. A file
    is decompressed by its extension, as there.

    Parameters
    ----------
    memory_pool
        If given, the file is decoded into this pool, and not cached.
    filesystem
        The pyarrow file system of `source`.
    client
        As for `read_parquet`.
    """
    options = [read_options, parse_options]

    def decode(stream: Any) -> pa.Table:
        return json.read_json(stream, *options, memory_pool=memory_pool)

    cached = memory_pool is None
    return _read(source, filesystem, client, "json", options, decode, cached)


def _read(
    source: Any,
    filesystem: Any,
    client: Client | None,
    form: str,
    options: list[Any],
    decode: Callable[[Any], pa.Table],
    cached: bool,
) -> pa.Table:
    client = client if client is not None else default_client()
    described = _described(options) if cached else None
    digest = hashlib.blake2b((described or "").encode(), digest_size=6).hexdigest()
    unit: Unit = (f"{form},{digest}", "*")

    def read(file: OpenFile) -> pa.Table:
        def decode_file(_: Wanted) -> Decoded:
            try:
                with _decompressed(file) as stream:
                    table = decode(stream)
            except (pa.ArrowException, OSError) as error:
                if not is_decode_error(error):
                    raise
                failed = with_path(error, f"Could not read '{file.path}'")
                raise DecodeFailedError({(unit, 0): failed}) from None
            empty = pa.RecordBatch.from_pylist([], table.schema)
            batches = table.to_batches() or [empty]
            return {unit: {0: [batch.to_struct_array() for batch in batches]}}

        known = client if described is not None else None
        fetched = fetch(known, file, {unit: [0]}, decode_file)
        return pa.Table.from_struct_array(fetched[unit].column([0]))

    return read_stable(source, filesystem, read)


def _described(options: list[Any]) -> str | None:
    """Return all options as text; None if one of them has a meaning in this process only."""
    parts = [f"pyarrow={pa.cpp_build_info.so_version}"]  # type inference differs between versions
    for given in options:
        names = [] if given is None else [n for n in dir(given) if not n.startswith("_")]
        for name in names:
            value = getattr(given, name)
            if name == "invalid_row_handler" and value is not None:
                return None
            if name == "timestamp_parsers":
                value = ["ISO8601" if parser is csv.ISO8601 else parser for parser in value]
            if isinstance(value, pa.Schema):
                value = value.serialize().to_pybytes()
            elif callable(value):
                continue
            parts.append(f"{name}={value!r}")
    text = ";".join(parts)
    return None if " at 0x" in text else text


def _decompressed(file: OpenFile) -> Any:
    handle = file.open()
    codec = _CODECS.get(os.path.splitext(file.path)[1])
    return pa.CompressedInputStream(handle, codec) if codec else handle
