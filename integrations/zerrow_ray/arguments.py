"""Giving every table that is an argument a put of its own, before Ray looks at the arguments.

A table in a put is tied to the put object by an out-of-scope callback, which needs the put's
reference: an argument given by value has none.
"""

from typing import Any

import ray

from zerrow_ray.kinds import PLAIN, kinds, reaches

_MOST_LOOKED_AT = 1000


def prepared(value: Any) -> Any:
    """Return a reference to a put of `value` if that is or plainly contains a table, else `value`.

    Looked into are lists, tuples and dicts, not further than their first thousand values; of a
    table elsewhere Ray makes a copy.
    """
    if type(value) in _PLAIN or not _holds_table(value):
        return value
    try:
        return ray.put(value)
    except TypeError:
        return value  # not to be pickled: Ray says so of the argument


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
