"""Deleting objects when the references that carry them are gone, in the process that owns these.

A result's reference is known to its owner since it called the task. An item of a stream is known to
it once the item was reported, which comes after the store says that there is one; and it is taken
out of the stream before anybody can let go of it. So what is said of an item that is unknown waits
until it has been taken, or until the stream is gone.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError

from zerrow_ray import dynamic_returns, ray_compat
from zerrow_ray.references import split, stream_of
from zerrow_ray.warnings import explain
from zerrow_store import threads
from zerrow_store.errors import ZerrowError

logger = logging.getLogger("zerrow_ray")


class Ownership:
    """What the references of this process carry; see `zerrow_store.client.session.Owner`.

    One thread does everything, in order; only `claims` and `taken` are called by others.
    _taken: by task, the number of the last item that was taken out of its stream. _waiting: by
    task, objects whose items are not known yet, by the items' references.
    """

    def __init__(self) -> None:
        self.id = ray_compat.worker_id()
        self._queue: queue.SimpleQueue[Callable[[], None] | list[bytes] | None]
        self._queue = queue.SimpleQueue()
        self._taken: dict[bytes, int] = {}
        self._waiting: dict[bytes, dict[bytes, set[bytes]]] = {}
        self._followed: set[bytes] = set()

    def start(self, delete: Callable[[list[bytes]], None]) -> None:
        """Begin. delete: deletes objects in the store, if they are there."""
        threads.start(self._run, delete, name="zerrow-owner")
        _listening.append(self)

    def close(self) -> None:
        """End."""
        _listening.remove(self)
        self._queue.put(None)

    def delete(self, object_ids: list[bytes]) -> None:
        """Delete objects of this process, soon and without waiting."""
        self._queue.put(object_ids)

    def delete_with(self, ref: Any, object_ids: list[bytes]) -> bool:
        """Delete objects as soon as an ObjectRef that this process owns is out of scope everywhere.

        Returns False if it is already, or this process does not own it.
        """
        return ray_compat.when_out_of_scope(ref, lambda _: self._queue.put(object_ids))

    def claims(self, object_id: bytes, reference: bytes) -> bool:
        """Whether this process owns a reference to a result, with which the object goes then."""
        return not dynamic_returns.includes(split(reference)[0]) and self._tie(
            reference, {object_id}
        )

    def adopts(self, object_id: bytes, reference: bytes) -> None:
        """Let an object go with an item of a stream of this process."""
        self._queue.put(lambda: self._adopt(object_id, reference))

    def taken(self, ref: Any) -> None:
        """Note that an item, and all before it, has been taken out of its stream."""
        task, number = split(ref.binary())
        self._taken[task] = number
        if task not in self._followed:
            self._queue.put(lambda: self._follow(task))
        if task in self._waiting:
            # The event keeps the item, so that it is still known then.
            self._queue.put(lambda: self._resolve(task, ref))

    def _run(self, delete: Callable[[list[bytes]], None]) -> None:
        while (event := self._queue.get()) is not None:
            try:
                if isinstance(event, list):
                    delete(event)
                else:
                    with ray_compat.connection() as connected:
                        if connected:
                            event()
                        else:
                            _never_dropped.append(event)
                        event = None  # with the reference that it may have
            except Exception:
                logger.exception("what a reference carried is not let go of")

    def _tie(self, reference: bytes, object_ids: set[bytes]) -> bool:
        return self.delete_with(ray_compat.uncounted_ref(reference), list(object_ids))

    def _adopt(self, object_id: bytes, reference: bytes) -> None:
        task, number = split(reference)
        was_taken = self._taken.get(task, 0) >= number
        if self._tie(reference, {object_id}):
            return
        if was_taken:
            self.delete([object_id])
            return
        self._waiting.setdefault(task, {}).setdefault(reference, set()).add(object_id)
        self._follow(task)
        self._resolve(task)

    def _resolve(self, task: bytes, ref: Any = None) -> None:
        """Let go, or tie to their items, what is of items that have been taken."""
        del ref
        taken, waiting = self._taken.get(task, 0), self._waiting.get(task, {})
        for reference in [each for each in waiting if split(each)[1] <= taken]:
            self._conclude(reference, waiting.pop(reference))
        if not waiting:
            self._waiting.pop(task, None)

    def _conclude(self, reference: bytes, object_ids: set[bytes]) -> None:
        if not self._tie(reference, object_ids):
            self.delete(list(object_ids))

    def _follow(self, task: bytes) -> None:
        """Hear of a stream's end, also if that was before."""
        if task in self._followed:
            return
        self._followed.add(task)
        ref = ray_compat.uncounted_ref(stream_of(task))

        def gone(_: bytes) -> None:
            self._queue.put(lambda: self._stream_gone(task))

        if not ray_compat.when_out_of_scope(ref, gone):
            self._stream_gone(task)

    def _stream_gone(self, task: bytes) -> None:
        self._followed.discard(task)
        self._taken.pop(task, None)
        for reference, object_ids in self._waiting.pop(task, {}).items():
            self._conclude(reference, object_ids)


_connecting: int | None = None


def connect_soon() -> None:
    """Have this process connected to its node's store, unless it is: it is about to own results."""
    global _connecting
    if _connecting != os.getpid():
        _connecting = os.getpid()
        threading.Thread(target=_connect, name="zerrow-connect", daemon=True).start()


def _connect() -> None:
    from zerrow_ray.session import current_session

    try:
        with ray_compat.connection() as connected:
            if connected:
                current_session()
    except (ZerrowError, RayError) as error:
        explain(error)


_never_dropped: list[Callable[[], None]] = []
"""Events of a Ray that was shut down: a counted reference must not be dropped amid that."""

_listening: list[Ownership] = []


def note_taken(ref: Any) -> None:
    """Note that an item was taken out of a stream of this process."""
    for ownership in _listening:
        ownership.taken(ref)
