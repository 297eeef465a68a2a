"""Holds, each of which keeps an object in the store until Python collects it.

Python's collector may run anywhere: in a thread that has a lock, or just as an interrupt
(control-C, Ray's cancellation) is about to be raised. So no Python code runs when a hold ends. It
has a weak reference whose callback is the C method `put` of a queue; another thread reads the queue
and tells the store.
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
from zerrow_store.protocol.places import Moved

logger = logging.getLogger("zerrow_store")


class Hold:
    """Keeps an object in the store until it is collected, once the store has confirmed it.

    moved: where allocations lie now, if not where the object's message has them.
    checked: keeps spilled allocations from being checked again while the hold is alive.
    """

    __slots__ = ("__weakref__", "checked", "moved")

    def __init__(self) -> None:
        self.moved: Moved = {}
        self.checked: tuple[Checked, ...] = ()


class _Collected(weakref.ref):  # type: ignore[type-arg]  # before Python 3.11 at run time
    """A weak reference to a hold, put into a queue when the hold is collected."""

    __slots__ = ("object_id",)

    object_id: bytes


class Holds:
    """The holds of one process at one store. A forked child's copy tells the store nothing.

    lock: the connection's, so that a restarted store is told exactly what is held at that moment.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._held: Counter[bytes] = Counter()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._alive: set[_Collected] = set()

    def __len__(self) -> int:
        return len(self._held)

    def counts(self) -> Counter[bytes]:
        """Return how often each object is held. The copy is atomic, and needs no lock."""
        return Counter(self._held)

    def confirm(self, object_id: bytes, hold: Hold | None = None) -> Hold:
        """Count a hold that the store has just confirmed, by default a new one; return it."""
        hold = hold or Hold()
        collected = _Collected(hold, self._queue.put)
        collected.object_id = object_id
        with self._lock:
            self._held[object_id] += 1
        self._alive.add(collected)
        return hold

    def collected(self) -> list[bytes] | None:
        """Wait for collected holds; return the ids of their objects, or None at the end."""
        found = [self._queue.get()]
        while not self._queue.empty():
            found.append(self._queue.get())
        if None in found:
            return None
        self._alive.difference_update(found)
        return [each.object_id for each in found]

    def release(self, object_ids: Iterable[bytes]) -> list[bytes]:
        """Uncount ended holds; return those that the store has to be told of. The caller has the
        lock.
        """
        # Without those that a restarted store could not hold again: it does not know them.
        known = Counter(object_ids) & self._held
        self._held -= known
        return list(known.elements())

    def hold_again(self, ask: Callable[[m.Hold], Any]) -> Counter[bytes]:
        """Have a restarted store hold everything again; return what it could hold."""
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
        """Keep only what was held again; return what ended while that was under way. The caller has
        the lock.
        """
        released = held - self._held
        self._held &= held
        return list(released.elements())

    def end(self) -> None:
        """Make `collected` return None: the store does not know these holds any more."""
        self._queue.put(None)
