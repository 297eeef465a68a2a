"""The private names of Ray Data into which its Parquet reads are hooked.

Importing this module raises ImportError if Ray Data lacks one of them. Both of Ray's readers scan
pyarrow's fragments. They get a `CachedFragment` in place of one and do the rest as always: listing,
pruning, batch sizes, partitions, paths, row hashes, and the fallback for nested columns that are
too large for a scanner.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from ray.data._internal.datasource.parquet_datasource import ParquetDatasource
from ray.data._internal.datasource_v2.formats.parquet.parquet_datasource_v2 import (
    ParquetDatasourceV2,
)
from ray.data._internal.datasource_v2.formats.parquet.parquet_file_reader import ParquetFileReader
from ray.data._internal.datasource_v2.formats.parquet.parquet_scanner import ParquetScanner
from ray.data._internal.util import RetryingPyFileSystemHandler

from zerrow_ray import ray_compat
from zerrow_ray.reading import node_client
from zerrow_store.decache.files import is_identifiable
from zerrow_store.decache.fragments import CachedFragment

_V1 = "ray.data._internal.datasource.parquet_datasource"
_V2 = "ray.data._internal.datasource_v2.formats.parquet"

_EXPECTED: dict[str, list[str] | None] = {
    f"{_V2}.parquet_datasource_v2:ParquetDatasourceV2.create_scanner": ["self", "schema"],
    f"{_V2}.parquet_scanner:ParquetScanner.create_reader": ["self"],
    f"{_V2}.parquet_file_reader:ParquetFileReader._get_fragments_to_read": [
        "self",
        "dataset",
        "manifest",
    ],
    f"{_V2}.parquet_file_reader:ParquetFileReader._resolve_batch_size": [
        "self",
        "dataset",
        "manifest",
    ],
    f"{_V2}.parquet_file_reader:ParquetFileReader._iter_fragment_tables": [
        "self",
        "fragment",
        "scanner_kwargs",
    ],
    f"{_V1}:ParquetDatasource.__init__": ["self", "paths"],
    f"{_V1}:_ParquetFragment.original": None,
    f"{_V1}:_ParquetFragment.file_size": None,
    f"{_V1}:read_fragments": None,
    "ray.data._internal.util:RetryingPyFileSystemHandler.unwrap": ["self"],
}
"""See `zerrow_ray.ray_compat._EXPECTED`."""

if _lacking := ray_compat.missing(_EXPECTED):
    raise ImportError(f"it lacks {', '.join(_lacking)}")


def read_through(is_wanted: Callable[[], bool]) -> None:
    """Route Parquet reads that are defined while `is_wanted()` through the nodes' caches."""
    create_scanner = ParquetDatasourceV2.create_scanner
    init = ParquetDatasource.__init__

    @functools.wraps(create_scanner)
    def cached_create_scanner(self: Any, *args: Any, **kwargs: Any) -> Any:
        scanner = create_scanner(self, *args, **kwargs)
        if not is_wanted():
            return scanner
        fields = dataclasses.fields(scanner)
        return CachedParquetScanner(**{f.name: getattr(scanner, f.name) for f in fields})

    @functools.wraps(init)
    def cached_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if is_wanted():
            self._pq_fragments = [_ShippedFragment(fragment) for fragment in self._pq_fragments]

    ParquetDatasourceV2.create_scanner = cached_create_scanner
    ParquetDatasource.__init__ = cached_init


class CachedParquetScanner(ParquetScanner):  # type: ignore[misc]  # Ray has no types here
    """Ray's scanner, with a reader that scans through the cache."""

    def create_reader(self) -> "CachedParquetReader":
        """Create the reader, in a task."""
        reader = super().create_reader()
        # Keep the state, and change the methods.
        reader.__class__ = CachedParquetReader
        cached: CachedParquetReader = reader
        return cached


class CachedParquetReader(ParquetFileReader):  # type: ignore[misc]  # Ray has no types here
    """Ray's reader, over a dataset of cached fragments."""

    def _get_fragments_to_read(self, dataset: Any, manifest: Any) -> Any:
        return super()._get_fragments_to_read(_CachedDataset(dataset), manifest)

    def _resolve_batch_size(self, dataset: Any, manifest: Any) -> Any:
        return super()._resolve_batch_size(_CachedDataset(dataset), manifest)


class _CachedDataset:
    """Stands in for a pyarrow dataset where Ray takes its fragments."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def get_fragments(self) -> Iterator[Any]:
        """As `pyarrow.dataset.Dataset.get_fragments`."""
        return map(_cached, self._dataset.get_fragments())


class _ShippedFragment:
    """Stands in for the old reader's `_ParquetFragment`, which can be pickled."""

    def __init__(self, fragment: Any) -> None:
        self._fragment = fragment

    @property
    def file_size(self) -> int:
        size: int = self._fragment.file_size
        return size

    @property
    def original(self) -> Any:
        return _cached(self._fragment.original)


def _cached(fragment: Any) -> Any:
    """Return the fragment as served by this node's cache; unchanged if there is no cache."""
    filesystem = fragment.filesystem
    # The old reader wraps the file system, to retry temporary failures.
    handler = getattr(filesystem, "handler", None)
    if isinstance(handler, RetryingPyFileSystemHandler):
        filesystem = handler.unwrap()
    client = node_client()
    if client is None or not is_identifiable(filesystem):
        return fragment
    return CachedFragment(fragment, client, filesystem)
