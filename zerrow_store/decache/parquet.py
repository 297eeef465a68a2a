"""`read_parquet`: what `pyarrow.parquet.read_table` returns, its columns from the cache.

A read is planned as pyarrow does it: fragments are pruned by their partitions, row groups by their
statistics; what is left is fetched by column; partition columns and columns that a file has not got
are pyarrow's own, and filters and projections are run by its engine over the cached columns.
"""

import contextlib
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from zerrow_store.client.client import Client
from zerrow_store.decache.errors import UncacheableFileError
from zerrow_store.decache.fetch import Fetched, fetch
from zerrow_store.decache.files import FileChangedError, OpenFile, opened
from zerrow_store.decache.nested import Path, join
from zerrow_store.decache.parquet_file import (
    EXTENSIONS_ENABLED,
    Column,
    Decoder,
    Footer,
    ParquetOptions,
    read_footer,
)
from zerrow_store.decache.projection import Projection
from zerrow_store.decache.sources import ATTEMPTS, changes_all_the_time, read_stable
from zerrow_store.decache.store import default_client

_NO_FILTER = ds.scalar(True)

_WINDOW_BYTES = 128 << 20
"""What is fetched at a time of a fragment, uncompressed: as much as Ray Data packs in one read."""


def read_parquet(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    use_threads: bool = True,
    schema: pa.Schema | None = None,
    use_pandas_metadata: bool = False,
    read_dictionary: Sequence[str] | None = None,
    binary_type: pa.DataType | None = None,
    list_type: Any = None,
    memory_map: bool = False,
    buffer_size: int = 0,
    partitioning: Any = "hive",
    filesystem: Any = None,
    filters: Any = None,
    ignore_prefixes: Sequence[str] | None = None,
    pre_buffer: bool = True,
    coerce_int96_timestamp_unit: str | None = None,
    decryption_properties: Any = None,
    thrift_string_size_limit: int | None = None,
    thrift_container_size_limit: int | None = None,
    schema_depth_limit: int | None = None,
    page_checksum_verification: bool = False,
    arrow_extensions_enabled: bool = EXTENSIONS_ENABLED,
    share_strings: bool = False,
    client: Client | None = None,
) -> pa.Table:
    """Read a table from Parquet, each column decoded once on this machine.

    The arguments, the result and the errors are those of `pyarrow.parquet.read_table`, except:

    source: may also be a glob pattern of local files ("lineitem/*.parquet").
    share_strings: keep string columns dictionary-encoded, with one dictionary for the whole file,
        so that what is made of them by filter, take, sort or join refers to it.
    client: the connection to the store whose cache is used; by default to the store "default".
        Without one, files are decoded as usual.
    memory_map, buffer_size, pre_buffer: how a file is read by whoever decodes it; what the cache
        has is not read again.
    decryption_properties: what is decrypted with them is decoded as usual, and not cached: other
        readers of the cache may not have the keys. Without them encrypted files are refused.
    """
    read = _Read(
        client if client is not None else default_client(),
        list(columns) if columns is not None else None,
        pq.filters_to_expression(filters) if filters is not None else None,
        schema,
        use_threads,
        use_pandas_metadata,
    )
    options = ParquetOptions(
        read_dictionary=frozenset(read_dictionary or ()),
        binary_type=binary_type,
        list_type=list_type,
        buffer_size=buffer_size,
        pre_buffer=pre_buffer,
        coerce_int96_timestamp_unit=coerce_int96_timestamp_unit,
        thrift_string_size_limit=thrift_string_size_limit,
        thrift_container_size_limit=thrift_container_size_limit,
        schema_depth_limit=schema_depth_limit,
        page_checksum_verification=page_checksum_verification,
        arrow_extensions_enabled=arrow_extensions_enabled,
        share_strings=share_strings,
    )
    source = _expanded(source)
    cached = decryption_properties is None
    plain_file = isinstance(source, str | os.PathLike) and os.path.isfile(source)
    if (
        cached
        and plain_file
        and (filesystem is None or isinstance(filesystem, pafs.LocalFileSystem))
    ):
        with contextlib.suppress(UncacheableFileError):
            return read.file(os.fspath(source), options)

    def dataset(options: ParquetOptions) -> pq.ParquetDataset:
        return pq.ParquetDataset(
            source,
            schema=schema,
            filesystem=filesystem,
            filters=filters,
            memory_map=memory_map,
            partitioning=partitioning,
            ignore_prefixes=ignore_prefixes,
            decryption_properties=decryption_properties,
            **options.reader(),
        )

    found = dataset(options)
    if share_strings:
        options = _with_shared_strings(options, found.schema)
        found = dataset(options)
    if cached and isinstance(source, str | os.PathLike | list):
        with contextlib.suppress(UncacheableFileError):
            return read.dataset(found, options)
    table = found.read(columns, use_threads, use_pandas_metadata)
    return table.unify_dictionaries() if share_strings else table


def read_fragment(
    path: str,
    *,
    filesystem: pafs.FileSystem,
    row_groups: Sequence[int] | None,
    partition: ds.Expression,
    columns: Sequence[str] | None,
    filter: ds.Expression | None,
    schema: pa.Schema,
    batch_size: int,
    options: ParquetOptions,
    use_threads: bool,
    client: Client,
) -> Iterator[pa.RecordBatch]:
    """Return the batches that the scanner of a `pyarrow.dataset.ParquetFileFragment` yields, taken
    from the cache.

    What is far from the first batches is not fetched before it is asked for.

    Raises UncacheableFileError for what only pyarrow can read, and OSError, possibly later, if the
    file changes after its first batches.
    """
    if columns is not None and not isinstance(columns, list | tuple):
        raise UncacheableFileError("columns that are computed")
    read = _Read(
        client, None if columns is None else list(columns), filter, schema, use_threads, False
    )
    wanted = None if row_groups is None else list(row_groups)
    batches = read.batches(path, filesystem, options, partition, wanted, batch_size)
    begun = list(itertools.islice(batches, 1))
    return itertools.chain(begun, batches)


def _with_shared_strings(options: ParquetOptions, schema: pa.Schema) -> ParquetOptions:
    """Options that keep all string columns of a schema dictionary-encoded."""
    strings = {field.name for field in schema if _is_string(field.type)}
    return replace(options, read_dictionary=options.read_dictionary | strings)


def _is_string(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(type_) for is_kind in kinds)


@dataclass(frozen=True)
class _Fragment:
    """A file of a dataset. partition: what its place says about its rows."""

    path: str
    filesystem: pafs.FileSystem | None
    partition: ds.Expression


@dataclass(frozen=True)
class _Read:
    client: Client | None
    columns: list[str] | None
    filter: ds.Expression | None
    schema: pa.Schema | None
    use_threads: bool
    use_pandas_metadata: bool

    def file(self, path: str, options: ParquetOptions) -> pa.Table:
        """Read one local file."""
        return read_stable(path, None, lambda file: self.open_file(file, options))

    def open_file(self, file: OpenFile, options: ParquetOptions) -> pa.Table:
        """Read an open file."""
        footer = read_footer(file, options)
        if options.share_strings:
            options = _with_shared_strings(options, footer.schema)
            footer = read_footer(file, options)
        schema = self.schema or footer.schema
        columns = self._with_index(schema.metadata)
        projection = Projection.of(schema, columns, self.filter)
        row_groups = self._row_groups(footer, _NO_FILTER, schema)
        table = self._table(file, footer, options, _NO_FILTER, schema, projection, row_groups)
        return projection.apply(table)

    def batches(
        self,
        path: str,
        filesystem: pafs.FileSystem,
        options: ParquetOptions,
        partition: ds.Expression,
        wanted: list[int] | None,
        batch_size: int,
    ) -> Iterator[pa.RecordBatch]:
        """Read some row groups of a file, by and by."""
        assert self.schema is not None
        begun = False
        for _ in range(ATTEMPTS):
            try:
                with opened(path, filesystem) as file:
                    if file.identity is None:
                        raise UncacheableFileError("a file whose changes would not be seen")
                    footer = read_footer(file, options)
                    projection = Projection.of(self.schema, self.columns, self.filter)
                    row_groups = self._row_groups(footer, partition, self.schema, wanted)
                    for window in footer.windows(projection.fields, row_groups, _WINDOW_BYTES):
                        table = self._table(
                            file, footer, options, partition, self.schema, projection, window
                        )
                        begun = True
                        yield from projection.batches(table, batch_size)
                return
            except FileChangedError:
                if begun:
                    raise OSError(f"{path} changed while it was read") from None
        raise changes_all_the_time(path)

    def dataset(self, dataset: pq.ParquetDataset, options: ParquetOptions) -> pa.Table:
        """Read many files, or one of another file system."""
        whole = dataset._dataset
        fragments = [
            _Fragment(fragment.path, fragment.filesystem, fragment.partition_expression)
            for fragment in whole.get_fragments(filter=self.filter)
        ]
        metadata = whole.schema.metadata or {}
        common = None
        if self.use_pandas_metadata and b"pandas" not in metadata:
            common = dataset._get_common_pandas_metadata()
        columns = self._with_index(common or metadata)
        projection = Projection.of(whole.schema, columns, self.filter)

        def read(fragment: _Fragment) -> pa.Table:
            return self._fragment(fragment, options, whole.schema, projection)

        threads = min(len(fragments), pa.cpu_count()) if self.use_threads else 1
        if threads > 1:
            with ThreadPoolExecutor(threads, "zerrow-read") as pool:
                tables = list(pool.map(read, fragments))
        else:
            tables = [read(fragment) for fragment in fragments]
        empty = pa.Table.from_batches([], projection.schema)
        table = projection.apply(pa.concat_tables(tables) if tables else empty)
        if common and b"pandas" in common:
            own = dict(table.schema.metadata or {})
            table = table.replace_schema_metadata({**own, b"pandas": common[b"pandas"]})
        return table

    def _fragment(
        self,
        fragment: _Fragment,
        options: ParquetOptions,
        schema: pa.Schema,
        projection: Projection,
    ) -> pa.Table:
        def read(file: OpenFile) -> pa.Table:
            footer = read_footer(file, options)
            partition = fragment.partition
            row_groups = self._row_groups(footer, partition, schema)
            return self._table(file, footer, options, partition, schema, projection, row_groups)

        return read_stable(fragment.path, fragment.filesystem, read)

    def _with_index(self, metadata: Any) -> list[str] | None:
        """The columns that are asked for, and those of a pandas index if that is wanted."""
        if self.columns is None or not self.use_pandas_metadata:
            return self.columns
        if not metadata or b"pandas" not in metadata:
            return self.columns
        index = [c for c in pq.core._get_pandas_index_columns(metadata) if isinstance(c, str)]
        return self.columns + list(set(index) - set(self.columns))

    def _row_groups(
        self,
        footer: Footer,
        partition: ds.Expression,
        schema: pa.Schema,
        wanted: list[int] | None = None,
    ) -> list[int]:
        """Return those of the wanted row groups that may have matching rows, by their statistics.

        Raises UncacheableFileError if the file has not got them.
        """
        if wanted is None:
            wanted = footer.row_groups
        elif not set(wanted) <= set(footer.row_groups):
            raise UncacheableFileError("row groups that the file has not got")
        if self.filter is None:
            return wanted
        kept = footer.fragment(partition).subset(filter=self.filter, schema=schema)
        matching = {group.id for group in kept.row_groups}
        if not matching:
            # pyarrow's engine filters an empty batch then, and cannot filter every type.
            kept.to_table(schema=schema, columns=[], filter=self.filter)
        return [group for group in wanted if group in matching]

    def _table(
        self,
        file: OpenFile,
        footer: Footer,
        options: ParquetOptions,
        partition: ds.Expression,
        schema: pa.Schema,
        projection: Projection,
        row_groups: list[int],
    ) -> pa.Table:
        """Return what the projection needs of these row groups, in the types of the dataset's
        schema.
        """
        there = [name for name in projection.fields if name in footer.leaves]
        virtual = [name for name in projection.fields if name not in footer.leaves]
        columns = {name: footer.units(options, name, projection.fields[name]) for name in there}
        wanted = [column for units in columns.values() for column in units]
        decoder = Decoder(file, footer, options, wanted, self.use_threads)
        fetched: Fetched = {}
        if footer.row_groups and row_groups:
            parts = {
                c.unit: footer.row_groups if c.leaf.path[0] in footer.shared else row_groups
                for c in wanted
            }
            fetched = fetch(self.client, file, parts, decoder.decode)
        arrays = {
            name: _assembled(footer.schema.field(name), units, fetched, row_groups)
            for name, units in columns.items()
        }
        for name, array in arrays.items():
            whole = footer.schema.field(name).type
            if whole != schema.field(name).type:
                arrays[name] = _cast(array, schema.field(name).type)
        if virtual:
            fragment = footer.fragment(partition).subset(row_group_ids=row_groups)
            constant = fragment.to_table(columns=virtual, schema=schema)
            arrays |= {name: constant.column(name) for name in virtual}
        if not arrays:
            return _rows_only(footer, row_groups, schema)
        # A whole field's type is the schema's own: the names of a map's entries count there only.
        own = [projection.schema.field(name) for name in projection.fields]
        fields = [f if f.type == (t := arrays[f.name].type) else f.with_type(t) for f in own]
        return pa.table(
            [arrays[name] for name in projection.fields],
            pa.schema(fields, projection.schema.metadata),
        )


def _assembled(
    field: pa.Field, columns: list[Column], fetched: Fetched, row_groups: list[int]
) -> pa.ChunkedArray:
    """A field's units of these row groups, as one column."""
    if not fetched:
        return pa.chunked_array([], field.type)
    if len(columns) == 1:
        return fetched[columns[0].unit].column(row_groups)
    order: list[Path] = [column.leaf.path for column in columns]
    chunks = []
    for part in row_groups:
        units = {}
        for column in columns:
            pieces = fetched[column.unit].chunks(part)
            units[column.leaf.path] = pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)
        chunks.append(join(units, order))
    return pa.chunked_array(chunks)


def _cast(array: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if array.type.num_fields or type_.num_fields:
        raise UncacheableFileError("a nested type that differs from the dataset's")
    return array.cast(type_)


def _rows_only(footer: Footer, row_groups: list[int], schema: pa.Schema) -> pa.Table:
    """The right number of rows, in a column that no projection takes."""
    rows = [pa.nulls(footer.metadata.row_group(group).num_rows) for group in row_groups]
    return pa.table({"": pa.chunked_array(rows, pa.null())}, metadata=schema.metadata)


def _expanded(source: Any) -> Any:
    """A glob pattern as a list of files; anything else as it is."""
    if isinstance(source, str) and glob.has_magic(source) and not os.path.exists(source):
        return sorted(glob.glob(source, recursive=True)) or source
    return source
