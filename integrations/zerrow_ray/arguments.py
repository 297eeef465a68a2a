"""Arguments: each that contains a table is put first, before Ray looks at the arguments.

A stored table goes when the reference of its put is out of scope, of which a callback tells. An
argument that is passed by value has no reference.
"""

from typing import Any

import ray

from zerrow_ray.kinds import PLAIN, kinds, reaches

_MOST_LOOKED_AT = 1000


def prepared(value: Any) -> Any:
    """Put `value` if it is a table or plainly contains one, and return the reference; else return
    `value`.

    Only lists, tuples and dicts are searched, and only their first thousand values. A table
    anywhere else takes Ray's own path, which copies it.
    """
    if type(value) in _PLAIN or not _holds_table(value):
        return value
    try:
        return ray.put(value)
    except TypeError:
        return value  # it cannot be pickled: Ray reports that of the argument


_PLAIN = PLAIN | {ray.ObjectRef}


def _holds_table(value: Any) -> bool:
    known = kinds()
    waiting = [value]
    looked_at = 0
    while waiting and looked_at < _MOST_LOOKED_AT:
        value = waiting.pop()
        looked_at += 1
        kind = known.get(type(value))
        if kind is not None and reaches(kind, value):
            return True
        if type(value) in (list, tuple):
            waiting.extend(value[: _MOST_LOOKED_AT - looked_at])
        elif type(value) is dict and len(value) < _MOST_LOOKED_AT:
            waiting.extend(value.values())
    return False
