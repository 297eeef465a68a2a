"""Ray Data over Parquet files that are read through each node's cache."""

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import ray.data
from ray.data import Dataset, FileShuffleConfig
from ray.data._internal.datasource.parquet_datasource import ParquetDatasource
from ray.data._internal.util import RetryingPyFileSystemHandler
from ray.data.datasource import Partitioning, PathPartitionFilter

from zerrow_ray.reading import node_client
from zerrow_store.decache.errors import UncacheableFileError
from zerrow_store.decache.parquet import read_fragment
from zerrow_store.decache.parquet_file import ParquetOptions


def read_parquet_dataset(
    paths: str | list[str],
    *,
    filesystem: Any = None,
    columns: list[str] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    partition_filter: PathPartitionFilter | None = None,
    partitioning: Partitioning | None = Partitioning("hive"),  # noqa: B008  (as in Ray)
    shuffle: Literal["files"] | FileShuffleConfig | None = None,
    include_paths: bool = False,
    file_extensions: list[str] | None = ParquetDatasource._FILE_EXTENSIONS,
    concurrency: int | None = None,
    override_num_blocks: int | None = None,
    ray_remote_args: dict[str, Any] | None = None,
    **arrow_parquet_args: Any,
) -> Dataset:
    """Creates a :class:`~ray.data.Dataset` from parquet files, decoded once per node.

    The arguments are those of :func:`ray.data.read_parquet`, and so are the records; read tasks
    go through the cache of the node that they run on.

    Args:
        paths: A single file path or directory, or a list of file paths. Multiple directories
            are not supported.
        filesystem: The PyArrow filesystem implementation to read from.
        columns: A list of column names to read. Only the specified columns are read during the
            file scan.
        num_cpus: The number of CPUs to reserve for each parallel read worker.
        num_gpus: The number of GPUs to reserve for each parallel read worker.
        memory: The heap memory in bytes to reserve for each parallel read worker.
        partition_filter: A :class:`~ray.data.datasource.partitioning.PathPartitionFilter`. Use
            with a custom callback to read only selected partitions of a dataset.
        partitioning: A :class:`~ray.data.datasource.partitioning.Partitioning` object that
            describes how paths are organized. Defaults to HIVE partitioning.
        shuffle: If setting to "files", randomly shuffle input files order before read. If setting
            to :class:`~ray.data.FileShuffleConfig`, you can pass a seed to shuffle the input
            files. Defaults to not shuffle with ``None``.
        include_paths: If ``True``, include the path to each file. File paths are stored in the
            ``'path'`` column.
        file_extensions: A list of file extensions to filter files by.
        concurrency: The maximum number of Ray tasks to run concurrently.
        override_num_blocks: Override the number of output blocks from all read tasks.
        ray_remote_args: kwargs passed to :func:`ray.remote` in the read tasks.
        arrow_parquet_args: Other parquet read options to pass to PyArrow.

    Returns:
        :class:`~ray.data.Dataset` producing records read from the specified parquet files.
    """
    datasource = CachedParquetDatasource(
        paths,
        columns=columns,
        to_batch_kwargs=arrow_parquet_args,
        filesystem=filesystem,
        schema=arrow_parquet_args.pop("schema", None),
        partition_filter=partition_filter,
        partitioning=partitioning,
        shuffle=shuffle,
        include_paths=include_paths,
        file_extensions=file_extensions,
    )
    return ray.data.read_datasource(
        datasource,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory=memory,
        concurrency=concurrency,
        override_num_blocks=override_num_blocks,
        ray_remote_args=ray_remote_args,
    )


class CachedParquetDatasource(ParquetDatasource):  # type: ignore[misc]
    """Ray's own datasource, whose fragments are read through the cache."""

    def __init__(self, paths: str | list[str], **arguments: Any) -> None:
        super().__init__(paths, **arguments)
        fragments: Any = getattr(self, "_pq_fragments")  # noqa: B009  (untyped in Ray)
        self._pq_fragments = [_ShippedFragment(fragment) for fragment in fragments]

    def get_name(self) -> str:
        """The name that Ray shows."""
        return "CachedParquet"


class _ShippedFragment:
    """Stands in for Ray's `_ParquetFragment`, which knows how to be pickled."""

    def __init__(self, fragment: Any) -> None:
        self._fragment = fragment

    @property
    def file_size(self) -> int:
        size: int = self._fragment.file_size
        return size

    @property
    def original(self) -> "_CachedFragment":
        return _CachedFragment(self._fragment.original)


class _CachedFragment:
    """A pyarrow fragment that takes its batches from the cache; all else is pyarrow's."""

    def __init__(self, fragment: Any) -> None:
        self._fragment = fragment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fragment, name)

    def to_batches(
        self,
        schema: pa.Schema | None = None,
        columns: list[str] | None = None,
        filter: Any = None,
        batch_size: int | None = None,
        use_threads: bool = True,
        **scan_options: Any,
    ) -> Iterator[pa.RecordBatch]:
        """As `pyarrow.dataset.Fragment.to_batches`."""
        filesystem = self._fragment.filesystem
        # Ray retries what fails for a moment; what that wraps tells which file it is.
        handler = getattr(filesystem, "handler", None)
        if isinstance(handler, RetryingPyFileSystemHandler):
            filesystem = handler.unwrap()
        read_options = self._fragment.format.read_options
        try:
            table = read_fragment(
                self._fragment.path,
                filesystem=filesystem,
                columns=columns,
                filter=filter,
                schema=schema,
                options=ParquetOptions(read_dictionary=frozenset(read_options.dictionary_columns)),
                use_threads=use_threads,
                client=node_client(),
            )
        except UncacheableFileError:
            batches: Iterator[pa.RecordBatch] = self._fragment.to_batches(
                schema=schema,
                columns=columns,
                filter=filter,
                use_threads=use_threads,
                **({} if batch_size is None else {"batch_size": batch_size}),
                **scan_options,
            )
            return batches
        return iter(table.to_batches(max_chunksize=batch_size))
