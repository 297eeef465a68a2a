"""Ownership: a process deletes the objects that its references carry when these are out of scope.

The owner knows the reference of a result since it called the task. It knows the reference of a
stream's item once Ray has reported the item, which happens after the store has told of the item's
object. An item cannot go out of scope before it is taken out of the stream. So an object whose item
is still unknown waits until the item has been taken, or until the stream is gone.
"""

import logging
import queue
from collections.abc import Callable
from typing import Any

from zerrow_ray import dynamic_returns, ray_compat
from zerrow_ray.references import split, stream_of
from zerrow_store import threads

logger = logging.getLogger("zerrow_ray")


class Ownership:
    """The objects that the references of this process carry; a `zerrow_store.client.session.Owner`.

    One thread does everything, in order. Other threads only queue work for it, and call `claims`
    and `taken`. _taken: by task, the number of the last item that was taken out of its stream.
    _waiting: by task, the objects whose items are not known yet, by the items' references.
    """

    def __init__(self) -> None:
        self.id = ray_compat.worker_id()
        self._queue: queue.SimpleQueue[Callable[[], None] | list[bytes] | None]
        self._queue = queue.SimpleQueue()
        self._taken: dict[bytes, int] = {}
        self._waiting: dict[bytes, dict[bytes, set[bytes]]] = {}
        self._followed: set[bytes] = set()

    def start(self, delete: Callable[[list[bytes]], None]) -> None:
        """Start the thread. delete: deletes objects in the store, if they are there."""
        threads.start(self._run, delete, name="zerrow-owner")
        _listening.append(self)

    def close(self) -> None:
        """End the thread."""
        _listening.remove(self)
        self._queue.put(None)

    def delete(self, object_ids: list[bytes]) -> None:
        """Have objects of this process deleted soon. Does not wait."""
        self._queue.put(object_ids)

    def delete_with(self, ref: Any, object_ids: list[bytes]) -> bool:
        """Delete objects as soon as an ObjectRef that this process owns is out of scope everywhere.

        Returns False if it already is, or if this process does not own it.
        """
        return ray_compat.when_out_of_scope(ref, lambda _: self._queue.put(object_ids))

    def claims(self, object_id: bytes, reference: bytes) -> bool:
        """Whether this process owns the reference to a result. If so, the object goes with it."""
        return not dynamic_returns.includes(split(reference)[0]) and self._tie(
            reference, {object_id}
        )

    def item_stored(self, object_id: bytes, reference: bytes) -> None:
        """Tie an object to an item of a stream that this process owns."""
        self._queue.put(lambda: self._item_stored(object_id, reference))

    def taken(self, ref: Any) -> None:
        """Note that an item, and all items before it, have been taken out of the stream."""
        task, number = split(ref.binary())
        self._taken[task] = number
        if task not in self._followed:
            self._queue.put(lambda: self._follow(task))
        if task in self._waiting:
            # The event refers to the item, so that Ray still knows it then.
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
                        event = None  # and the reference that it may have
            except Exception:
                logger.exception("what a reference carried is not let go of")

    def _tie(self, reference: bytes, object_ids: set[bytes]) -> bool:
        return self.delete_with(ray_compat.uncounted_ref(reference), list(object_ids))

    def _item_stored(self, object_id: bytes, reference: bytes) -> None:
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
        """Tie the waiting objects whose items have been taken to these, or delete them."""
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
        """Have `_stream_gone` called at the stream's end, or now if it has ended already."""
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


_never_dropped: list[Callable[[], None]] = []
"""Events that were left when Ray was shut down: dropping a counted reference then is fatal."""

_listening: list[Ownership] = []


def note_taken(ref: Any) -> None:
    """Tell all sessions that an item was taken out of a stream of this process."""
    for ownership in _listening:
        ownership.taken(ref)
