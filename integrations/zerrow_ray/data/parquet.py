"""`ray.data.read_parquet`, whose tasks read through the nodes' caches."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import ray.data

from zerrow_store.once import warn_once

logger = logging.getLogger("zerrow_ray")

_this_read = ContextVar("_this_read", default=False)
_all_reads = False


def cache_reads(on: bool = True) -> None:
    """Route later calls of `ray.data.read_parquet` in this process through the nodes' caches.

    Parameters
    ----------
    on
        False to switch that off again.
    """
    global _all_reads
    _all_reads = on and _is_hooked()


# So that this function shows Ray's signature.
@functools.wraps(ray.data.read_parquet, assigned=(), updated=())
def read_parquet(*args: Any, **kwargs: Any) -> ray.data.Dataset:
    """Create a dataset from Parquet files, each column decoded once on a node for all jobs.

    Arguments, records and errors are those of `ray.data.read_parquet`. Files that the cache cannot
    serve, such as encrypted ones and ones whose changes it could not notice, are read as by Ray
    itself.
    """
    with _cached():
        return ray.data.read_parquet(*args, **kwargs)


@contextmanager
def _cached() -> Iterator[None]:
    token = _this_read.set(_is_hooked())
    try:
        yield
    finally:
        _this_read.reset(token)


@functools.cache
def _is_hooked() -> bool:
    try:
        from zerrow_ray.data import ray_data_compat
    except ImportError as error:
        warn_once(
            logger,
            f"Parquet files are read without the cache: Ray {ray.__version__} is not known to "
            f"zerrow_ray.data ({error})",
        )
        return False
    ray_data_compat.read_through(lambda: _all_reads or _this_read.get())
    return True
