"""`ray.data.read_parquet` itself, with the fragments that its tasks scan taken from the cache."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import ray.data

from zerrow_ray.warnings import say_once

_this_read = ContextVar("_this_read", default=False)
_all_reads = False


def cache_reads(on: bool = True) -> None:
    """Let all reads of `ray.data.read_parquet` that this process defines go through the nodes'
    caches, or no longer.
    """
    global _all_reads
    _all_reads = on and _is_hooked()


# Ray's signature, for those who look at this one's.
@functools.wraps(ray.data.read_parquet, assigned=(), updated=())
def read_parquet(*args: Any, **kwargs: Any) -> ray.data.Dataset:
    """Create a dataset from Parquet files, each column decoded once on a node for all tasks of all
    jobs.

    The arguments, the records and the errors are those of `ray.data.read_parquet`. What the cache
    cannot serve, such as encrypted files, and files of which it cannot tell whether they change,
    is read as Ray reads it.
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
        say_once(
            f"Parquet files are read without the cache: Ray {ray.__version__} is not known to "
            f"zerrow_ray.data ({error})"
        )
        return False
    ray_data_compat.read_through(lambda: _all_reads or _this_read.get())
    return True
