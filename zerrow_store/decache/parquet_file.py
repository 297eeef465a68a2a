"""One Parquet file, as the cache sees it.

It has its footer, its units, and the decoding of row groups. A part is a row group. Row groups are
decoded in parallel, each into chunks of its own, so that a reader of some of them refers to no
others. Errors have the file's path, and are kept by unit and row group, so that a damaged column
does not fail readers of other columns.
"""

import inspect
import queue
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from zerrow_store.decache.errors import UncacheableFileError, is_decode_error, with_path
from zerrow_store.decache.fetch import Decoded, DecodeFailedError, Wanted
from zerrow_store.decache.files import OpenFile
from zerrow_store.decache.nested import Leaf, Path, count_leaves, cut, leaves_of
from zerrow_store.decache.parts import Chunks
from zerrow_store.lru import LruCache
from zerrow_store.protocol.fields import Unit

_KNOWN = frozenset(inspect.signature(pq.ParquetFile).parameters)
"""The options of this pyarrow: up to 20 it has no `binary_type`, for one."""

EXTENSIONS_ENABLED: bool = (
    "arrow_extensions_enabled" in _KNOWN
    and inspect.signature(pq.read_table).parameters["arrow_extensions_enabled"].default
)
"""Whether this pyarrow reads extension types by default."""

_NOT_FOR_ALL_COLUMNS = {
    "read_dictionary",
    "buffer_size",
    "pre_buffer",
    "arrow_extensions_enabled",
}


@dataclass(frozen=True)
class ParquetOptions:
    """How columns are decoded, with pyarrow's names and meanings.

    Attributes
    ----------
    buffer_size, pre_buffer
        How a file is read. The columns are the same.
    share_strings
        Whether string columns have one dictionary for the whole file.
    """

    read_dictionary: frozenset[str] = frozenset()
    binary_type: pa.DataType | None = None
    list_type: Any = None
    buffer_size: int = 0
    pre_buffer: bool = True
    coerce_int96_timestamp_unit: str | None = None
    thrift_string_size_limit: int | None = None
    thrift_container_size_limit: int | None = None
    schema_depth_limit: int | None = None
    page_checksum_verification: bool = False
    arrow_extensions_enabled: bool = EXTENSIONS_ENABLED
    share_strings: bool = False

    def reader(self) -> dict[str, Any]:
        """Return the arguments of `pyarrow.parquet.ParquetFile`.

        An option that this pyarrow lacks is passed only if it was asked for, so that pyarrow
        raises.
        """
        options = {
            "read_dictionary": sorted(self.read_dictionary) or None,
            "binary_type": self.binary_type,
            "list_type": self.list_type,
            "buffer_size": self.buffer_size,
            "pre_buffer": self.pre_buffer,
            "coerce_int96_timestamp_unit": self.coerce_int96_timestamp_unit,
            "thrift_string_size_limit": self.thrift_string_size_limit,
            "thrift_container_size_limit": self.thrift_container_size_limit,
            "schema_depth_limit": self.schema_depth_limit,
            "page_checksum_verification": self.page_checksum_verification,
            "arrow_extensions_enabled": self.arrow_extensions_enabled,
        }
        return {
            name: value
            for name, value in options.items()
            if name in _KNOWN or value is not getattr(ParquetOptions, name)
        }

    def format(self) -> ds.ParquetFileFormat:
        """Return the same for datasets."""
        options = self.reader()
        dictionary_columns = options.pop("read_dictionary") or []
        for only_files in ("buffer_size", "pre_buffer"):
            del options[only_files]
        return ds.ParquetFileFormat(dictionary_columns=dictionary_columns, **options)

    def with_shared_strings(self, schema: pa.Schema) -> "ParquetOptions":
        """Return options that keep all string columns of a schema dictionary-encoded."""
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        strings = {f.name for f in schema if any(is_kind(f.type) for is_kind in kinds)}
        return replace(self, read_dictionary=self.read_dictionary | strings)

    @cached_property
    def common_variant(self) -> str:
        """Return the part of the key for all columns. Types also depend on pyarrow's version."""
        given = [
            f"{name}={value.__name__ if isinstance(value, type) else value}"
            for name, value in self.reader().items()
            if name not in _NOT_FOR_ALL_COLUMNS and value is not getattr(ParquetOptions, name)
        ]
        return ",".join(["parquet", f"pyarrow={pa.cpp_build_info.so_version}", *given])

    def variant(self, column: str, *, shared: bool, plain: bool) -> str:
        """Return how a column is decoded, for its key. plain: without its extension type."""
        names = [n for n in self.read_dictionary if f"{n}.".startswith(f"{column}.")]
        common = f"{self.common_variant},plain" if plain else self.common_variant
        if shared:
            return f"{common},shared"
        return ",".join([common, *(f"dictionary={n}" for n in sorted(names))])


@dataclass(frozen=True)
class Footer:
    """A file's own description, as decoded with some options.

    Attributes
    ----------
    leaves
        By top-level field.
    shared
        Fields with one dictionary for the whole file.
    plain
        Fields that would have an extension type with `arrow_extensions_enabled`.
    """

    metadata: pq.FileMetaData
    options: ParquetOptions
    schema: pa.Schema
    leaves: Mapping[str, list[Leaf]]
    row_groups: list[int]
    shared: frozenset[str]
    plain: frozenset[str]

    def fragment(self, partition: ds.Expression) -> ds.ParquetFileFragment:
        """Return the file as a dataset's fragment without data.

        The fragment prunes row groups, and makes columns that the file lacks, without opening the
        file.
        """
        if self._fragment.partition_expression.equals(partition):
            return self._fragment
        return self.options.format().make_fragment(
            pa.BufferReader(self._without_data), partition_expression=partition
        )

    @cached_property
    def _fragment(self) -> ds.ParquetFileFragment:
        # Cached for the statistics that it has parsed.
        return self.options.format().make_fragment(pa.BufferReader(self._without_data))

    @cached_property
    def _without_data(self) -> pa.Buffer:
        sink = pa.BufferOutputStream()
        self.metadata.write_metadata_file(sink)
        return sink.getvalue()

    def windows(
        self, fields: Collection[str], row_groups: Sequence[int], nbytes: int
    ) -> Iterator[list[int]]:
        """Yield row groups in windows of `nbytes`, counted by these fields' uncompressed size."""
        indices = [i for name in fields for leaf in self.leaves.get(name, []) for i in leaf.indices]
        window: list[int] = []
        filled = 0
        for group in row_groups:
            metadata = self.metadata.row_group(group)
            size = sum(metadata.column(i).total_uncompressed_size for i in indices)
            if window and filled + size > nbytes:
                yield window
                window, filled = [], 0
            window.append(group)
            filled += size
        if window:
            yield window

    def units(self, options: ParquetOptions, name: str, under: list[Path] | None) -> list["Column"]:
        """Return the units of a top-level field; with `under`, those below one of its paths."""
        shared, plain = name in self.shared, name in self.plain
        return [
            Column((options.variant(label, shared=shared, plain=plain), label), leaf)
            for leaf in self.leaves[name]
            if under is None or any(leaf.path[: len(p)] == p for p in under)
            for label in [".".join(part.replace(".", "\\.") for part in leaf.path)]
        ]


@dataclass(frozen=True)
class Column:
    """A unit of a file, and its leaf columns."""

    unit: Unit
    leaf: Leaf


_footers: LruCache[tuple[bytes, ParquetOptions], Footer] = LruCache(256)
"""By the identity of a file."""


def read_footer(file: OpenFile, options: ParquetOptions) -> Footer:
    """Return a file's footer. This process reads it once for each state of the file.

    Raises
    ------
    UncacheableFileError
        Only pyarrow can read the file.
    FileChangedError
        The file changed meanwhile.
    pyarrow.ArrowException, OSError
        As pyarrow, with the path in the text.
    """
    key = (file.identity or b"", options)
    if footer := _footers.get(key):
        return footer
    try:
        with pq.ParquetFile(file.open(), **options.reader()) as opened:
            footer = _footer(opened, options)
    except (pa.ArrowException, OSError) as error:
        file.check_unchanged()
        raise with_path(error, f"Could not open Parquet input source '{file.path}'") from None
    file.check_unchanged()
    if file.identity is not None:
        _footers.put(key, footer)
    return footer


def _footer(opened: pq.ParquetFile, options: ParquetOptions) -> Footer:
    schema = opened.schema_arrow
    names = schema.names
    if len(set(names)) < len(names):
        raise UncacheableFileError("fields with the same name")
    leaves = {}
    first = 0
    for field in schema:
        leaves[field.name] = leaves_of(field, first)
        first += count_leaves(field.type)
    if first != opened.metadata.num_columns:
        raise UncacheableFileError("a type whose columns are not known")
    shared = {f.name for f in schema if options.share_strings and pa.types.is_dictionary(f.type)}
    row_groups = list(range(opened.num_row_groups))
    plain = _plain(opened, options)
    return Footer(opened.metadata, options, schema, leaves, row_groups, frozenset(shared), plain)


def _plain(opened: pq.ParquetFile, options: ParquetOptions) -> frozenset[str]:
    if options.arrow_extensions_enabled or "arrow_extensions_enabled" not in _KNOWN:
        return frozenset()
    extended = replace(options, arrow_extensions_enabled=True)
    with pq.ParquetFile(
        pa.BufferReader(b""), metadata=opened.metadata, **extended.reader()
    ) as file:
        types = {field.name: field.type for field in file.schema_arrow}
    return frozenset(f.name for f in opened.schema_arrow if f.type != types[f.name])


class Decoder:
    """Decodes columns of a file, for one read. `decode` is an argument of `fetch`."""

    def __init__(
        self,
        file: OpenFile,
        footer: Footer,
        options: ParquetOptions,
        columns: Sequence[Column],
        use_threads: bool,
    ) -> None:
        self._file = file
        self._footer = footer
        self._options = options
        self._leaves = {column.unit: column.leaf for column in columns}
        self._threads = pa.cpu_count() if use_threads else 1
        self._handles: queue.SimpleQueue[pq.ParquetFile] = queue.SimpleQueue()
        self._errors: dict[tuple[Unit, int], Exception] = {}

    def decode(self, wanted: Wanted) -> Decoded:
        """Decode row groups of units.

        Raises
        ------
        DecodeFailedError
            The file is damaged.
        """
        tasks: dict[int, list[Unit]] = {}
        for unit, parts in wanted.items():
            for part in parts:
                tasks.setdefault(part, []).append(unit)
        workers = min(self._threads, len(tasks))
        try:
            if workers == 1:
                tables = [self._decode_part(part, units) for part, units in tasks.items()]
            else:
                with ThreadPoolExecutor(workers, "zerrow-decode") as pool:
                    tables = list(pool.map(self._decode_part, tasks.keys(), tasks.values()))
        finally:
            while not self._handles.empty():
                self._handles.get().close()
        if self._errors:
            raise DecodeFailedError(self._errors)
        decoded: Decoded = {unit: {} for unit in wanted}
        for part, columns in zip(tasks, tables, strict=True):
            for unit, chunks in columns.items():
                decoded[unit][part] = chunks
        for unit in decoded:
            if self._leaves[unit].path[0] in self._footer.shared:
                decoded[unit] = _share_dictionary(decoded[unit])
        return decoded

    def _decode_part(self, part: int, units: list[Unit]) -> dict[Unit, Chunks]:
        # Another row group has failed, so this one is not needed.
        if self._errors:
            return {}
        try:
            return self._read(part, units)
        except (pa.ArrowException, OSError) as error:
            if not is_decode_error(error):
                raise
        decoded: dict[Unit, Chunks] = {}
        for unit in units:
            try:
                decoded |= self._read(part, [unit])
            except (pa.ArrowException, OSError) as error:
                if not is_decode_error(error):
                    raise
                what = f"Could not read Parquet file '{self._file.path}'"
                self._errors[unit, part] = with_path(error, what)
        return decoded

    def _read(self, part: int, units: list[Unit]) -> dict[Unit, Chunks]:
        indices = sorted({i for unit in units for i in self._leaves[unit].indices})
        try:
            handle = self._handles.get_nowait()
        except queue.Empty:
            metadata = self._footer.metadata
            handle = pq.ParquetFile(self._file.open(), metadata=metadata, **self._options.reader())
        try:
            alone = self._footer.metadata.num_row_groups < self._threads
            table = handle.reader.read_row_groups(
                [part], column_indices=indices, use_threads=alone and self._threads > 1
            )
        finally:
            self._handles.put(handle)
        return {unit: _chunks(table, self._leaves[unit].path) for unit in units}


def _chunks(table: pa.Table, path: Path) -> Chunks:
    column = table.column(table.schema.get_field_index(path[0]))
    chunks = column.chunks or [pa.nulls(0, column.type)]
    return [cut(chunk, path) for chunk in chunks]


def _share_dictionary(parts: dict[int, Chunks]) -> dict[int, Chunks]:
    """Return the chunks of a dictionary-encoded column with one dictionary for all."""
    column = pa.chunked_array([chunk for chunks in parts.values() for chunk in chunks])
    unified = iter(column.unify_dictionaries().chunks)
    return {part: [next(unified) for _ in chunks] for part, chunks in parts.items()}
