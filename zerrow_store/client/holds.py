"""Holds: what keeps objects in the store until it is collected.

Python's collector may run anywhere: in a thread that has a lock, and just as an interrupt
(control-C, Ray's cancellation) is about to be raised. So the end of a hold is noted without a line
of Python, by a weak reference whose callback is a queue's own `put`; a thread of its own tells the
store.
"""

import logging
import queue
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from zerrow_store.client.spill_reader import Checked
from zerrow_store.errors import ObjectNotFoundError
from zerrow_store.forks import Lock
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Moves
from zerrow_store.protocol.places import Place

logger = logging.getLogger("zerrow_store")

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
    """The holds of one process that one store knows of. A forked child's copy tells nobody.

    lock: the connection's, so that what a restarted store is told is what is held at that moment.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._held: Counter[bytes] = Counter()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._alive: set[_Collected] = set()

    def __len__(self) -> int:
        return len(self._held)

    def counts(self) -> Counter[bytes]:
        """Return how often each object is held. In one step: the lock is not needed."""
        return Counter(self._held)

    def confirm(self, object_id: bytes, hold: Hold | None = None) -> Hold:
        """Return what keeps an object, by default a new hold, as the store has just confirmed."""
        hold = hold or Hold()
        collected = _Collected(hold, self._queue.put)
        collected.object_id = object_id
        with self._lock:
            self._held[object_id] += 1
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

    def release(self, object_ids: Iterable[bytes]) -> list[bytes]:
        """Hold objects no more; return those that the store is to be told of. The caller has the
        lock.
        """
        # Not what a restarted store could not hold again. It learns only of what is held.
        known = Counter(object_ids) & self._held
        self._held -= known
        return list(known.elements())

    def hold_again(self, ask: Callable[[m.Hold], Any]) -> Counter[bytes]:
        """Hold what is held at a store that was started again; return what could be held."""
        with self._lock:
            held = self.counts()
        for object_id in list(held.elements()):
            try:
                ask(m.Hold(object_id))
            except ObjectNotFoundError as error:
                logger.warning("a view outlived its object: %s", error)
                held[object_id] -= 1
        return held

    def held_again(self, held: Counter[bytes]) -> list[bytes]:
        """Have only what was held again; return what was released while that was under way. The
        caller has the lock.
        """
        released = held - self._held
        self._held &= held
        return list(released.elements())

    def end(self) -> None:
        """Let `collected` return None: the store knows nothing of these any more."""
        self._queue.put(None)


def moved_places(moves: Moves) -> Moved:
    """Return where allocations lie, as the store has said it."""
    return {(segment, offset): (file, at) for segment, offset, file, at in moves}
