"""The store's objects in a `ray.put`: they are deleted with the put object.

The process that has put it registers an out-of-scope callback for the put object itself. A
reference nested in it would not do: Ray 2.60 forgets what is nested in a put object when that goes
out of scope through the lineage of a task that took it
(ReferenceCounter::ReleaseLineageReferences).
"""

from collections.abc import Callable
from typing import Any

import ray

from zerrow_ray import serialization


def put(original: Callable[[], ray.ObjectRef]) -> ray.ObjectRef:
    """Call the original `ray.put`, and tie the objects that it publishes to its reference."""
    with serialization.putting() as object_ids:
        try:
            ref = original()
        except BaseException:
            if object_ids:
                delete(object_ids)
            raise
        if object_ids:
            _session().ownership.delete_with(ref, object_ids)
            _session().client.carried(object_ids, ref.binary())
        return ref


def delete(object_ids: list[bytes]) -> None:
    """Delete the objects of a failed put."""
    _session().ownership.delete(object_ids)


def _session() -> Any:
    from zerrow_ray.session import current_session

    return current_session()
