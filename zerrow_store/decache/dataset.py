"""`scan`: a dataset of Parquet files whose scans take their columns from the cache.

polars and duckdb ask an object with `__arrow_c_stream__` for all of its columns (polars 2.1, duckdb
1.5: they give no `requested_schema`). To a `pyarrow.dataset.Dataset` they hand the columns and the
filter of a query. So this is one: what it does not answer from the cache is pyarrow's own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from zerrow_store.client.client import Client
from zerrow_store.decache.fragments import CachedFragment
from zerrow_store.decache.parquet import expanded
from zerrow_store.decache.store import default_client


class CachedDataset(ds.FileSystemDataset):  # type: ignore[misc]  # pyarrow has no stubs
    """See the module. What is made of it (`filter`, `replace_schema`, `join`, a pickled copy) is
    pyarrow's own, and reads the same rows without the cache.
    """

    # Class-wide, as pyarrow makes filtered datasets of this class without `__init__`.
    _client: Client | None = None

    def __init__(self, dataset: ds.FileSystemDataset, client: Client | None) -> None:
        super().__init__(
            list(dataset.get_fragments()), dataset.schema, dataset.format, dataset.filesystem
        )
        self._client = client

    def scanner(
        self, columns: Any = None, filter: ds.Expression | None = None, **options: Any
    ) -> Any:
        """As `pyarrow.dataset.Dataset.scanner`. Columns are decoded as its batches are taken."""
        plain = super().scanner(columns=columns, filter=filter, **options)
        client = self._client
        if client is None:
            return plain

        def batches() -> Iterator[pa.RecordBatch]:
            for fragment in self.get_fragments(filter=filter):
                yield from CachedFragment(fragment, client).to_batches(
                    self.schema, columns=columns, filter=filter, **options
                )

        return CachedDatasetScanner(plain, batches)

    def __arrow_c_schema__(self) -> object:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the rows as an Arrow stream.

        requested_schema: its fields are the columns that are decoded, cast to its types; all
        columns if it is not given.
        """
        if requested_schema is None:
            return self.scanner().to_reader().__arrow_c_stream__()
        requested = pa.schema(_Schema(requested_schema))  # which empties the capsule
        reader = self.scanner(columns=requested.names).to_reader()
        return reader.__arrow_c_stream__(requested.__arrow_c_schema__())


class CachedDatasetScanner:
    """Stands in for a scanner of a dataset. What is not defined here is pyarrow's: rows are counted
    from footers, for one.

    Its batches are made in the thread that takes them: pyarrow's scanner of an iterator takes them
    in a thread of its pool for files, of which decoding wants more.
    """

    def __init__(self, plain: ds.Scanner, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        self._plain = plain
        self.to_batches = batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def to_reader(self) -> pa.RecordBatchReader:
        """As `pyarrow.dataset.Scanner.to_reader`."""
        return pa.RecordBatchReader.from_batches(self._plain.projected_schema, self.to_batches())

    def to_table(self) -> pa.Table:
        """As `pyarrow.dataset.Scanner.to_table`."""
        return self.to_reader().read_all()


class _Schema:
    """A schema that came in a capsule, for `pyarrow.schema`."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __arrow_c_schema__(self) -> object:
        return self._capsule


def scan(
    source: Any,
    *,
    schema: pa.Schema | None = None,
    filesystem: Any = None,
    partitioning: Any = "hive",
    ignore_prefixes: Sequence[str] | None = None,
    client: Client | None = None,
) -> ds.FileSystemDataset:
    """Return Parquet files as a dataset, whose columns are decoded once on this machine, on demand.

    Parameters
    ----------
    source
        A path, a list of paths, a folder, a URI that pyarrow knows, or a glob pattern of local
        files.
    schema, filesystem, partitioning, ignore_prefixes
        As for `pyarrow.dataset.dataset`; by default folders named `key=value` are columns.
    client
        The connection to the store whose cache is used; by default to the store "default". Without
        one, files are decoded as usual.

    Returns
    -------
    pyarrow.dataset.FileSystemDataset
        For everything that takes one. duckdb and `polars.scan_pyarrow_dataset` hand it the columns
        and the filter of a query: other columns are not decoded. Row groups are pruned by their
        statistics. Consumers of the PyCapsule protocol (`__arrow_c_stream__`) get all columns,
        or those of the schema that they request.

    Raises
    ------
    OSError
        For files that cannot be read; also, later, if a file changes while it is scanned.

    Examples
    --------
    >>> lines = zerrow_store.scan("lineitem/*.parquet")  # doctest: +SKIP
    >>> duckdb.sql("SELECT sum(l_tax) FROM lines")  # doctest: +SKIP
    >>> polars.scan_pyarrow_dataset(lines).select("l_tax").sum().collect()  # doctest: +SKIP
    """
    dataset = ds.dataset(
        expanded(source),
        schema=schema,
        format="parquet",
        filesystem=filesystem,
        partitioning=partitioning,
        ignore_prefixes=ignore_prefixes,
    )
    return CachedDataset(dataset, client if client is not None else default_client())
