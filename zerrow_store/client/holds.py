"""Holds: what keeps objects in the store until it is collected.

Python's collector may run anywhere: in a thread that has a lock, and just as an interrupt
(control-C, Ray's cancellation) is about to be raised. So the end of a hold is noted without a line
of Python, by a weak reference whose callback is a queue's own `put`; a thread of its own tells the
store.
"""

import queue
import weakref
from typing import Any

from zerrow_store.client.spill_reader import Checked
from zerrow_store.protocol.places import Place

Moved = dict[Place, Place]
"""Where allocations lie, as they were spilled, or are copies of another machine's."""


class Hold:
    """Keeps an object in the store until it is collected, once the store has confirmed it.

    moved: where allocations lie that the object's message has elsewhere.
    checked: stands for those of them that need not be checked again while this is alive.
    """

    __slots__ = ("__weakref__", "checked", "moved")

    def __init__(self) -> None:
        self.moved: Moved = {}
        self.checked: tuple[Checked, ...] = ()


class _Collected(weakref.ref):  # type: ignore[type-arg]  # before Python 3.11 at run time
    """Is put into a queue when the hold that it refers to is collected."""

    __slots__ = ("object_id",)

    object_id: bytes


class Holds:
    """The holds of one process that one store knows of. A forked child's copy tells nobody."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._alive: set[_Collected] = set()

    def confirm(self, hold: Hold, object_id: bytes) -> Hold:
        """Have an object released when `hold`, which the store has just confirmed, is collected."""
        collected = _Collected(hold, self._queue.put)
        collected.object_id = object_id
        self._alive.add(collected)
        return hold

    def collected(self) -> list[bytes] | None:
        """Wait for holds that have been collected; return their objects, or None at the end."""
        found = [self._queue.get()]
        while not self._queue.empty():
            found.append(self._queue.get())
        if None in found:
            return None
        self._alive.difference_update(found)
        return [each.object_id for each in found]

    def end(self) -> None:
        """Let `collected` return None: the store knows nothing of these any more."""
        self._queue.put(None)
