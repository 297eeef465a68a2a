"""`read_ipc`, `read_feather`: Arrow files through the cache.

A compressed file is decoded once; each column is a unit, and the whole file its one part. An
uncompressed local file needs no decoding: it is mapped, and the table refers to its bytes, as with
`pyarrow.memory_map`. Like any mapped file, it must not be truncated while it is used.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather

from zerrow_store.client.client import Client
from zerrow_store.decache.errors import is_decode_error, with_path
from zerrow_store.decache.fetch import Decoded, DecodeFailedError, Wanted, fetch
from zerrow_store.decache.files import LocalFile, OpenFile
from zerrow_store.decache.parts import Chunks
from zerrow_store.decache.sources import read_stable
from zerrow_store.decache.store import default_client
from zerrow_store.lru import LruCache
from zerrow_store.protocol.fields import Unit

_VARIANT = "arrow"
_compressed: LruCache[bytes, bool] = LruCache(256)
"""By the identity of a file."""


def read_ipc(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    use_threads: bool = True,
    filesystem: Any = None,
    client: Client | None = None,
) -> pa.Table:
    """Read a table from an Arrow IPC file, each column decoded once on this machine.

    A local file that is not compressed is mapped instead.

    Parameters
    ----------
    source
        Path or URI of the file.
    columns
        Names of columns; by default all.
    use_threads
        Whether to decode in several threads.
    filesystem
        The pyarrow file system of `source`.
    client
        As for `read_parquet`.

    Returns
    -------
    pyarrow.Table
        What `pyarrow.ipc.open_file(source).read_all()` returns, or these columns of it.

    Raises
    ------
    KeyError
        A column does not exist, or its name is not unique.
    pyarrow.ArrowException, OSError
        As pyarrow, with the path in the text.
    """
    client = client if client is not None else default_client()

    def read(file: OpenFile) -> pa.Table:
        return _ArrowFile(file, use_threads).read(client, columns)

    return read_stable(source, filesystem, read)


def read_feather(
    source: Any,
    columns: Sequence[str | int] | None = None,
    memory_map: bool = False,
    use_threads: bool = True,
    *,
    filesystem: Any = None,
    client: Client | None = None,
) -> pa.Table:
    """Read a table from a Feather file, each column decoded once on this machine.

    Parameters and results are those of `pyarrow.feather.read_table`, with the exceptions below.
    pyarrow itself reads version 1 of Feather.

    Parameters
    ----------
    memory_map
        Ignored. A local file that is not compressed is always mapped.
    filesystem
        The pyarrow file system of `source`.
    client
        As for `read_parquet`.

    Raises
    ------
    KeyError
        A column does not exist, or its name is not unique.
    pyarrow.ArrowException, OSError
        As pyarrow, with the path in the text.
    """
    del memory_map
    client = client if client is not None else default_client()

    def read(file: OpenFile) -> pa.Table:
        with file.open() as handle:
            version_1 = handle.read(4) == b"FEA1"
        if version_1:
            with file.open() as handle:
                table = feather.read_table(handle, columns, use_threads=use_threads)
            file.check_unchanged()
            return table
        arrow = _ArrowFile(file, use_threads)
        # As in pyarrow: no names mean all columns, and sorted names give the file's order.
        wanted = list(columns) if columns else None
        if wanted and sorted(set(wanted), key=str) == wanted:
            wanted.sort(key=arrow.index)
        return arrow.read(client, wanted)

    return read_stable(source, filesystem, read)


class _ArrowFile:
    """An open file of Arrow's IPC file format. Errors carry its path."""

    def __init__(self, file: OpenFile, use_threads: bool) -> None:
        self._file = file
        self._use_threads = use_threads
        try:
            with self._reader(file.open()) as reader:
                self._schema: pa.Schema = reader.schema
                self._batches: int = reader.num_record_batches
        except (pa.ArrowException, OSError) as error:
            file.check_unchanged()
            raise with_path(error, f"Could not open Arrow file '{file.path}'") from None

    def read(self, client: Client | None, columns: Sequence[str | int] | None) -> pa.Table:
        indices = self._indices(columns)
        try:
            in_place = isinstance(self._file, LocalFile) and not self._is_compressed()
            if in_place or self._batches == 0:
                table = self._mapped()
                return table if columns is None else table.select(indices)
        except (pa.ArrowException, OSError) as error:
            self._file.check_unchanged()
            raise with_path(error, f"Could not read Arrow file '{self._file.path}'") from None
        units: list[Unit] = [(_VARIANT, f"{i}:{self._schema.field(i).name}") for i in indices]
        fetched = fetch(client, self._file, {unit: [0] for unit in units}, self._decode)
        return pa.table(
            [fetched[unit].column([0]) for unit in units],
            pa.schema([self._schema.field(i) for i in indices], self._schema.metadata),
        )

    def index(self, column: str | int) -> int:
        """Return the index of a field. Raise KeyError for an unknown or ambiguous one."""
        index = column if isinstance(column, int) else self._schema.get_field_index(column)
        if not 0 <= index < len(self._schema):
            raise KeyError(f"no field, or several fields {column!r} in '{self._file.path}'")
        return index

    def _indices(self, columns: Sequence[str | int] | None) -> list[int]:
        if columns is None:
            return list(range(len(self._schema)))
        return [self.index(column) for column in columns]

    def _decode(self, wanted: Wanted) -> Decoded:
        indices = sorted(int(unit[1].partition(":")[0]) for unit in wanted)
        try:
            with self._reader(self._file.open(), indices) as reader:
                table = reader.read_all()
        except (pa.ArrowException, OSError) as error:
            if not is_decode_error(error):
                raise
            failed = with_path(error, f"Could not read Arrow file '{self._file.path}'")
            raise DecodeFailedError({(unit, 0): failed for unit in wanted}) from None
        columns = dict(zip(indices, table.columns, strict=True))
        return {unit: {0: _chunks(columns[int(unit[1].partition(":")[0])])} for unit in wanted}

    def _reader(self, handle: pa.NativeFile, indices: list[int] | None = None) -> Any:
        options = pa.ipc.IpcReadOptions(
            included_fields=indices or None, use_threads=self._use_threads
        )
        return pa.ipc.open_file(handle, options=options)

    def _mapped(self) -> pa.Table:
        if not isinstance(self._file, LocalFile):
            with self._reader(self._file.open()) as reader:
                return reader.read_all()
        with self._reader(self._file.map()) as reader:
            return reader.read_all()

    def _is_compressed(self) -> bool:
        """Return whether the file is compressed. The answer is cached."""
        identity = self._file.identity
        if identity is None:
            return self._looks_compressed()
        answer = _compressed.get(identity)
        if answer is None:
            answer = self._looks_compressed()
            _compressed.put(identity, answer)
        return answer

    def _looks_compressed(self) -> bool:
        """Return whether buffers of the first batch with rows lie outside of the mapped file."""
        assert isinstance(self._file, LocalFile)
        handle = self._file.map()
        whole = handle.read_buffer()
        with self._reader(handle) as reader:
            for i in range(reader.num_record_batches):
                buffers = _buffers(reader.get_batch(i))
                if buffers:
                    return not all(
                        whole.address <= b.address
                        and b.address + b.size <= whole.address + whole.size
                        for b in buffers
                    )
        return False


def _buffers(batch: pa.RecordBatch) -> list[pa.Buffer]:
    return [b for column in batch.columns for b in column.buffers() if b is not None and b.size]


def _chunks(column: pa.ChunkedArray) -> Chunks:
    return column.chunks or [pa.nulls(0, column.type)]
