"""`read_parquet`: the result of `pyarrow.parquet.read_table`, with columns from the cache.

`read_fragment` does the same for one fragment of a dataset.
"""

import contextlib
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from zerrow_store.client.client import Client
from zerrow_store.decache.errors import UncacheableFileError
from zerrow_store.decache.parquet_file import EXTENSIONS_ENABLED, ParquetOptions
from zerrow_store.decache.parquet_read import ParquetRead
from zerrow_store.decache.store import default_client


# Long because it passes pyarrow's parameters on by name.
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

    Parameters, results and errors are those of `pyarrow.parquet.read_table`, with the exceptions
    below.

    Parameters
    ----------
    source
        May also be a glob pattern of local files ("lineitem/*.parquet").
    memory_map, buffer_size, pre_buffer
        How the file is read if it has to be decoded. Cached columns are not read again.
    decryption_properties
        If given, the file is not cached: other readers may not have the keys. Without them, an
        encrypted file is an error.
    share_strings
        Keep string columns dictionary-encoded, with one dictionary for the whole file, to which
        filtered, taken, sorted or joined tables refer.
    client
        The connection to the store with the cache; by default to the store "default". If that does
        not run, files are decoded as usual.

    Returns
    -------
    pyarrow.Table
        The table.

    Raises
    ------
    pyarrow.ArrowException, OSError
        As pyarrow, with the path in the text.
    """
    read = ParquetRead(
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
    source = expanded(source)
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
        options = options.with_shared_strings(found.schema)
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
    """Return the batches of a scan of a `pyarrow.dataset.ParquetFileFragment`, from the cache.

    Row groups are fetched when their batches are asked for, some of them ahead.

    Parameters
    ----------
    path, filesystem
        The file.
    row_groups
        Indices; None for all.
    partition
        The fragment's partition expression.
    columns, filter, schema, batch_size, use_threads
        As for the fragment's scanner.
    options
        How columns are decoded.
    client
        The connection to the store.

    Raises
    ------
    UncacheableFileError
        Only pyarrow can read the file, or compute the columns.
    OSError
        The file changed after its first batches. The iterator raises it.
    """
    if columns is not None and not isinstance(columns, list | tuple):
        raise UncacheableFileError("columns that are computed")
    read = ParquetRead(
        client, None if columns is None else list(columns), filter, schema, use_threads, False
    )
    wanted = None if row_groups is None else list(row_groups)
    batches = read.batches(path, filesystem, options, partition, wanted, batch_size)
    begun = list(itertools.islice(batches, 1))
    return itertools.chain(begun, batches)


def expanded(source: Any) -> Any:
    """Return the files of a glob pattern; anything else as it is."""
    if isinstance(source, str) and glob.has_magic(source) and not os.path.exists(source):
        return sorted(glob.glob(source, recursive=True)) or source
    return source
