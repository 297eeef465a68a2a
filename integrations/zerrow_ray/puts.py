"""Objects in puts: each goes with the put object, whose process hears of its end.

They are tied to the put object itself, by an out-of-scope callback of the process that put it, and
not to a reference nested in it: Ray 2.60 forgets what is nested in a put object when that goes out
of scope through the lineage of a task that took it (ReferenceCounter::ReleaseLineageReferences).
"""

from collections.abc import Callable
from typing import Any

import ray

from zerrow_ray import serialization


def put(original: Callable[[], ray.ObjectRef]) -> ray.ObjectRef:
    """Call the original of a `ray.put`, and tie what it publishes to its reference."""
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
    """Delete objects of a put that has failed."""
    _session().ownership.delete(object_ids)


def _session() -> Any:
    from zerrow_ray.session import current_session

    return current_session()
