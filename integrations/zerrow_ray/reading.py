"""Parquet files read through the node's cache, in tasks and in the driver."""

from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from zerrow_ray.session import current_session
from zerrow_ray.warnings import explain
from zerrow_store.client.client import Client
from zerrow_store.errors import ZerrowError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds


def read_parquet(source: Any, **options: Any) -> "pa.Table":
    """Read a table from Parquet, each column decoded once on this node for all tasks of all jobs.

    The arguments, the result and the errors are those of `zerrow_store.read_parquet`, which are
    those of `pyarrow.parquet.read_table`. If a task returns the table or a part of it, the result
    is stored by reference.
    """
    # Import pyarrow.dataset only in processes that read.
    from zerrow_store.decache import read_parquet

    return read_parquet(source, client=node_client(), **options)


def scan(source: Any, **options: Any) -> "ds.FileSystemDataset":
    """Return Parquet files as a dataset over this node's cache, for duckdb, polars and others.

    The arguments, the result and the errors are those of `zerrow_store.scan`. The dataset belongs
    to this process: make it in the task that reads it.
    """
    from zerrow_store.decache import scan

    return scan(source, client=node_client(), **options)


def node_client() -> Client | None:
    """Return the client of the node's store; None, logged once, if there is none. Files are then
    decoded as usual.
    """
    try:
        return current_session().client
    except (ZerrowError, RayError) as error:
        explain(error)
        return None
