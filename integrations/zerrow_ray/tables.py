"""Arrow tables, record batches, chunked arrays and arrays by reference."""

import functools
from typing import Any

import pyarrow as pa

from zerrow_ray import ray_compat
from zerrow_ray.break_even import pays
from zerrow_ray.compact import reduce_compact
from zerrow_ray.extension_types import needs_its_class
from zerrow_ray.kinds import Kind, Reduced, add_kind
from zerrow_store.native import _native


def register() -> None:
    """Let Arrow data go by reference in this process."""
    for cls in (pa.Table, pa.RecordBatch, pa.ChunkedArray, *_subclasses(pa.Array)):
        add_kind(cls, _KIND)


def _reaches(value: Any) -> bool:
    return pays(lambda size: _native.reaches(value, size)) and not needs_its_class(value)


def _by_reference(value: Any) -> Reduced:
    # Imported only when there is something to publish: it takes as long as a small task.
    from zerrow_ray.messages import publish

    return publish(lambda: _native.encode(value, move=True), value, _KIND)


def _own(value: Any) -> Reduced:
    registered, _ = ray_compat.reducers()
    reducer = registered.get(type(value), reduce_compact)
    reduced: Reduced = reducer(value)
    return reduced


_KIND = Kind(_reaches, _by_reference, _own)


@functools.cache
def _subclasses(cls: type) -> frozenset[type]:
    # Reducers are looked up by exact type, and pa.Array has a subclass for each Arrow type.
    below: list[type] = cls.__subclasses__()
    return frozenset({cls}.union(*map(_subclasses, below)))
