"""One read of Parquet files: planned as pyarrow does it, its columns from the cache.

Fragments are pruned by their partitions, row groups by their statistics. The rest is fetched by
column. Partition columns, and columns that a file lacks, are pyarrow's own, and its engine runs
filters and projections over the cached columns.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from zerrow_store.decache.parquet_file import Column, Decoder, Footer, ParquetOptions, read_footer
from zerrow_store.decache.projection import Projection
from zerrow_store.decache.sources import ATTEMPTS, changes_all_the_time, read_stable

_NO_FILTER = ds.scalar(True)

_WINDOW_BYTES = 128 << 20
"""The part of a fragment that is fetched at a time, uncompressed: as much as Ray Data packs into a
read.
"""


@dataclass(frozen=True)
class _Fragment:
    """A file of a dataset. partition: the expression that its directory stands for."""

    path: str
    filesystem: pafs.FileSystem | None
    partition: ds.Expression


@dataclass(frozen=True)
class ParquetRead:
    """One read. The attributes are parameters of `pyarrow.parquet.read_table`; `filter` is an
    expression, `client` None to decode without the cache.
    """

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
        """Read an open local file."""
        footer = read_footer(file, options)
        if options.share_strings:
            options = options.with_shared_strings(footer.schema)
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
        """Yield the batches of some row groups (None: of all), which are fetched by windows."""
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
        """Read a dataset: several files, or one of another file system."""
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
        """Return the columns, with those of a pandas index if that is wanted."""
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
        """Return the wanted row groups that may have matching rows, by their statistics.

        Raises
        ------
        UncacheableFileError
            The file lacks one of them.
        """
        if wanted is None:
            wanted = footer.row_groups
        elif not set(wanted) <= set(footer.row_groups):
            raise UncacheableFileError("row groups that the file lacks")
        if self.filter is None:
            return wanted
        kept = footer.fragment(partition).subset(filter=self.filter, schema=schema)
        matching = {group.id for group in kept.row_groups}
        if not matching:
            # pyarrow's engine then filters an empty batch, and raises for types that it cannot
            # filter.
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
        """Return the projection's fields for some row groups, in the types of the schema."""
        arrays = self._cached_fields(file, footer, options, schema, projection, row_groups)
        virtual = [name for name in projection.fields if name not in footer.leaves]
        if virtual:
            fragment = footer.fragment(partition).subset(row_group_ids=row_groups)
            constant = fragment.to_table(columns=virtual, schema=schema)
            arrays |= {name: constant.column(name) for name in virtual}
        if not arrays:
            return _rows_only(footer, row_groups, schema)
        # If the type is equal, take the schema's own: only that has the names of a map's entries.
        own = [projection.schema.field(name) for name in projection.fields]
        fields = [f if f.type == (t := arrays[f.name].type) else f.with_type(t) for f in own]
        return pa.table(
            [arrays[name] for name in projection.fields],
            pa.schema(fields, projection.schema.metadata),
        )

    def _cached_fields(
        self,
        file: OpenFile,
        footer: Footer,
        options: ParquetOptions,
        schema: pa.Schema,
        projection: Projection,
        row_groups: list[int],
    ) -> dict[str, pa.ChunkedArray]:
        """Return the fields of the projection that the file has, by name."""
        present = [name for name in projection.fields if name in footer.leaves]
        columns = {name: footer.units(options, name, projection.fields[name]) for name in present}
        wanted = [column for units in columns.values() for column in units]
        fetched: Fetched = {}
        if footer.row_groups and row_groups:
            parts = {
                c.unit: footer.row_groups if c.leaf.path[0] in footer.shared else row_groups
                for c in wanted
            }
            decoder = Decoder(file, footer, options, wanted, self.use_threads)
            fetched = fetch(self.client, file, parts, decoder.decode)
        arrays = {}
        for name, units in columns.items():
            whole = footer.schema.field(name)
            array = _assembled(whole, units, fetched, row_groups)
            wanted_type = schema.field(name).type
            arrays[name] = array if whole.type == wanted_type else _cast(array, wanted_type)
        return arrays


def _assembled(
    field: pa.Field, columns: list[Column], fetched: Fetched, row_groups: list[int]
) -> pa.ChunkedArray:
    """Return a field as one column, from its units for some row groups."""
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
    """Return the right number of rows, in a column that no projection takes."""
    rows = [pa.nulls(footer.metadata.row_group(group).num_rows) for group in row_groups]
    return pa.table({"": pa.chunked_array(rows, pa.null())}, metadata=schema.metadata)
