"""Fragments of pyarrow datasets whose batches come from the cache, for engines that scan datasets.

Statistics come from the footers that this process has cached. To use one, a fragment opens the file
only to check that it has not changed.
"""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from zerrow_store.client.client import Client
from zerrow_store.decache.errors import UncacheableFileError
from zerrow_store.decache.files import OpenFile
from zerrow_store.decache.parquet import read_fragment
from zerrow_store.decache.parquet_file import Footer, ParquetOptions, read_footer
from zerrow_store.decache.sources import read_stable

_DEFAULT_FORMAT = ds.ParquetFileFormat()
_BATCH_SIZE = 131_072  # pyarrow's own


class CachedFragment:
    """Stands in for a fragment of a Parquet file.

    Attributes that are not defined here are pyarrow's. pyarrow also scans files that the cache
    cannot serve.

    Parameters
    ----------
    fragment
        The fragment of the whole file.
    client
        The connection to the store.
    filesystem
        Where the cache finds the file; by default the fragment's own file system.
    row_groups
        Indices; None for all.
    """

    def __init__(
        self,
        fragment: ds.ParquetFileFragment,
        client: Client,
        filesystem: pafs.FileSystem | None = None,
        row_groups: list[int] | None = None,
    ) -> None:
        self._whole = fragment
        self._client = client
        self._filesystem = fragment.filesystem if filesystem is None else filesystem
        self._row_groups = row_groups

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    @cached_property
    def _plain(self) -> ds.ParquetFileFragment:
        if self._row_groups is None:
            return self._whole
        return self._whole.subset(row_group_ids=self._row_groups)

    @property
    def path(self) -> str:
        """Return the file's path."""
        path: str = self._whole.path
        return path

    @property
    def physical_schema(self) -> pa.Schema:
        """Return the file's schema."""
        return self._plain.physical_schema if self._footer is None else self._footer.schema

    @property
    def metadata(self) -> Any:
        """Return the file's footer."""
        return self._plain.metadata if self._footer is None else self._footer.metadata

    @property
    def row_groups(self) -> Any:
        """Return the row groups, with their statistics."""
        if self._footer is None:
            return self._plain.row_groups
        fragment = self._footer.fragment(self._whole.partition_expression)
        if self._row_groups is None:
            return fragment.row_groups
        return fragment.subset(row_group_ids=self._row_groups).row_groups

    @cached_property
    def _footer(self) -> Footer | None:
        """Return the footer; None if only pyarrow can read the file, or can say why not.

        pyarrow may have the keys of an encrypted file, of which a format does not tell.
        """

        def read(file: OpenFile) -> Footer:
            if file.identity is None:
                raise UncacheableFileError("a file whose changes would not be seen")
            return read_footer(file, _options(self._whole.format, None))

        try:
            return read_stable(self.path, self._filesystem, read)
        except (UncacheableFileError, pa.ArrowException, OSError):
            return None

    def subset(
        self,
        filter: ds.Expression | None = None,
        schema: pa.Schema | None = None,
        row_group_ids: list[int] | None = None,
    ) -> Any:
        """Return the fragment of some row groups."""
        if filter is not None or row_group_ids is None or self._row_groups is not None:
            return self._plain.subset(filter=filter, schema=schema, row_group_ids=row_group_ids)
        return CachedFragment(
            self._whole, self._client, self._filesystem, sorted(set(map(int, row_group_ids)))
        )

    def to_batches(
        self, schema: pa.Schema | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        """As `pyarrow.dataset.Fragment.to_batches`."""
        return self.scanner(schema, **options).to_batches()

    def scanner(self, schema: pa.Schema | None = None, **options: Any) -> "CachedScanner":
        """As `pyarrow.dataset.Fragment.scanner`, with its errors."""
        schema = schema or self.physical_schema
        return CachedScanner(self, self._whole.scanner(schema, **options), schema, options)

    def scan(
        self, whole: ds.Scanner, schema: pa.Schema, options: dict[str, Any]
    ) -> Iterator[pa.RecordBatch]:
        """Return the batches of a scan. `whole` is pyarrow's scanner of the whole file."""
        if self._footer is not None:
            with contextlib.suppress(UncacheableFileError):
                return read_fragment(
                    self.path,
                    filesystem=self._filesystem,
                    row_groups=self._row_groups,
                    partition=self._whole.partition_expression,
                    columns=options.get("columns"),
                    filter=options.get("filter"),
                    schema=schema,
                    batch_size=options.get("batch_size", _BATCH_SIZE),
                    options=_options(self._whole.format, options.get("fragment_scan_options")),
                    use_threads=options.get("use_threads", True),
                    client=self._client,
                )
        scanner = whole if self._row_groups is None else self._plain.scanner(schema, **options)
        batches: Iterator[pa.RecordBatch] = scanner.to_batches()
        return batches


class CachedScanner:
    """Stands in for the scanner of a fragment."""

    def __init__(
        self,
        fragment: CachedFragment,
        whole: ds.Scanner,
        schema: pa.Schema,
        options: dict[str, Any],
    ) -> None:
        self._fragment = fragment
        self._whole = whole
        self._schema = schema
        self._options = options

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """As `pyarrow.dataset.Scanner.to_batches`."""
        return self._fragment.scan(self._whole, self._schema, self._options)

    def scan_batches(self) -> Iterator[ds.TaggedRecordBatch]:
        """As `pyarrow.dataset.Scanner.scan_batches`."""
        for batch in self.to_batches():
            yield ds.TaggedRecordBatch(batch, self._fragment)


def _options(
    format: ds.ParquetFileFormat, scan: ds.ParquetFragmentScanOptions | None
) -> ParquetOptions:
    """Return how a scanner decodes columns.

    Options that have pyarrow's default are left out, so that other readers share the columns.

    Raises
    ------
    UncacheableFileError
        The scanner decrypts.
    """
    read = format.read_options
    scan = format.default_fragment_scan_options if scan is None else scan
    if scan.decryption_properties or scan.parquet_decryption_config:
        raise UncacheableFileError("a file that is decrypted")
    usual_read = _DEFAULT_FORMAT.read_options
    usual_scan = _DEFAULT_FORMAT.default_fragment_scan_options

    def given(own: Any, usual: Any, name: str) -> Any:
        value = getattr(own, name, None)  # pyarrow up to 20 has no `binary_type`
        return None if value == getattr(usual, name, None) else value

    return ParquetOptions(
        read_dictionary=frozenset(read.dictionary_columns),
        binary_type=given(read, usual_read, "binary_type"),
        list_type=given(read, usual_read, "list_type"),
        coerce_int96_timestamp_unit=given(read, usual_read, "coerce_int96_timestamp_unit"),
        thrift_string_size_limit=given(scan, usual_scan, "thrift_string_size_limit"),
        thrift_container_size_limit=given(scan, usual_scan, "thrift_container_size_limit"),
        schema_depth_limit=given(scan, usual_scan, "schema_depth_limit"),
        page_checksum_verification=scan.page_checksum_verification,
        arrow_extensions_enabled=getattr(scan, "arrow_extensions_enabled", False),
    )
