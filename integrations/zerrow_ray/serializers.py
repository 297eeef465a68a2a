"""Reducers of Arrow data for Ray's in-band serialization: by reference where it pays.

In-band are `ray.put`, arguments and results. Closures, plain pickling, small tables and anything
that the store cannot take go Ray's own way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
import ray.cloudpickle
from ray.exceptions import RayError

from zerrow_ray import frames, streams, submission
from zerrow_ray.compact import reduce_compact
from zerrow_ray.config import plugin_config
from zerrow_ray.extension_types import needs_its_class
from zerrow_ray.imports import when_imported
from zerrow_ray.messages import publish
from zerrow_ray.session import warn_once
from zerrow_store.errors import ZerrowError
from zerrow_store.native import _native

logger = logging.getLogger("zerrow_ray")

Reduced = tuple[Any, ...]
Reducer = Callable[[Any], Reduced]

_ARROW_TYPES = (pa.Table, pa.RecordBatch, pa.ChunkedArray, pa.Array)
_registered: dict[type, Reducer] = {}


def register() -> None:
    """Register the reducers in this process. Idempotent."""
    # Ray registers its own reducers when this context is made: it has to exist before ours are set.
    ray._private.worker.global_worker.get_serialization_context()
    submission.install()
    streams.install()
    _register(pa.Table, _by_reference)
    _register(pa.RecordBatch, _by_reference)
    _register(pa.ChunkedArray, _by_reference)
    for array_type in _subclasses(pa.Array):
        _register(array_type, _by_reference)
    when_imported("pandas", lambda pandas: _register(pandas.DataFrame, frames.reduce_pandas))
    when_imported("polars", lambda polars: _register(polars.DataFrame, frames.reduce_polars))


def _register(cls: type, by_reference: Callable[[Any], Reduced | None]) -> None:
    """Make `by_reference` the reducer of `cls`, with the one it replaces for whatever it
    declines.
    """
    dispatch = ray.cloudpickle.CloudPickler.dispatch
    if cls in _registered:
        # Another ray.init in this process: Ray has put its own reducers back.
        dispatch[cls] = _registered[cls]
        return
    own_path = dispatch.get(cls, reduce_compact if issubclass(cls, _ARROW_TYPES) else None)
    context = ray._private.worker.global_worker.get_serialization_context

    def reduce(value: Any) -> Reduced:
        reduced = None
        if context().is_in_band_serialization() and not submission.is_declining():
            try:
                reduced = by_reference(value)
            except (ZerrowError, RayError, MemoryError, OSError, ValueError) as error:
                warn_once(error)
        if reduced is not None:
            return reduced
        own: Reduced = own_path(value) if own_path else value.__reduce_ex__(5)
        return own

    dispatch[cls] = _registered[cls] = reduce


def _by_reference(value: Any) -> Reduced | None:
    if not _native.reaches(value, plugin_config().threshold) or needs_its_class(value):
        return None
    return publish(lambda: _native.encode(value, move=True))


def _subclasses(cls: type) -> set[type]:
    # The dispatch table is looked up by exact type, and pa.Array has one subclass per Arrow type.
    below: list[type] = cls.__subclasses__()
    return {cls}.union(*map(_subclasses, below))
