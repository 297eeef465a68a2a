"""Objects in puts: each goes with the put object, whose process hears of its end.

Objects nested in a result are held by a lease (see `leases`). Ray 2.60 forgets what is nested in a
*put* object when that goes out of scope through the lineage of a task that took it: the nested
reference then stays for good (ReferenceCounter::ReleaseLineageReferences erases the entry without
visiting what it contains). So tables in puts are not tied to a nested lease, but to the put object
itself, by an out-of-scope callback of the process that put it.
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
            _ownership().delete_with(ref, object_ids)
        return ref


def delete(object_ids: list[bytes]) -> None:
    """Delete objects of a put that has failed."""
    _ownership().delete(object_ids)


def _ownership() -> Any:
    from zerrow_ray.session import current_session

    return current_session().ownership
