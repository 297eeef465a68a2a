"""Requests to a node store under way, and what their answers entail.

A sender may be interrupted anywhere, by control-C or by Ray's cancellation, and so waits for a
queue, which is C: Python's events and futures stay locked then. What an answer hands out is in
`result` before the sender wakes: who no longer waits for it drops it by that.
"""

import itertools
import queue
from collections.abc import Iterable
from typing import Any

from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import MAX_ID

_MOST_HANG_UPS = 2


class Request:
    """A request under way. Requests whose answers entail something are of classes of their own.

    fds: what is sent along. hang_ups: how often the store hung up over it. resent: the store may
    have got it twice. answered: it is not under way any more. abandoned: nobody waits. concluded:
    `result` or `error` is there.
    """

    def __init__(self, message: m.Request, fds: Iterable[int] = ()) -> None:
        self.message = message
        self.fds = list(fds)
        self.id = 0
        self.hang_ups = 0
        self.resent = False
        self.answered = False
        self.abandoned = False
        self.concluded = False
        self.result: Any = None
        self.error: Exception | None = None
        self._over: queue.SimpleQueue[None] = queue.SimpleQueue()

    def conclude(self, result: Any = None, error: Exception | None = None) -> None:
        """Say what came of it, once."""
        self.result, self.error, self.concluded = result, error, True
        self._over.put(None)

    def wait(self) -> Any:
        """Wait until it is concluded; return the result, or raise the error. For one thread."""
        if not self.concluded:
            self._over.get()
        if self.error is not None:
            raise self.error
        return self.result

    # --- what an answer entails; called by the thread that reads it ---

    def replied(self, reply: Any, frame: framing.Frame) -> Any:
        """Do what a reply entails; return what the sender gets."""
        return reply

    def refused(self, error: Exception) -> Any:
        """Do what an error entails; return what the sender gets, or raise it."""
        raise error

    def undo(self) -> None:
        """Take back what an answer has done for which nobody waits any more."""

    def clear(self) -> None:
        """Let go of what went along, when this is over, or was never sent."""


class UnderWay:
    """Requests that were sent, or will be when the store is there, and are not answered.

    The caller has the connection's lock.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._requests: dict[int, Request] = {}
        self._undeleted: set[bytes] = set()

    def add(self, request: Request) -> bytes:
        """Enter a request; return its frame. Raises ValueError, and enters nothing, if it is too
        large.
        """
        message = request.message
        request.id = next(self._ids)
        frame = framing.pack(message.kind, request.id, message, len(request.fds))
        if len(frame) > framing.MAX_REQUEST:
            raise ValueError(f"a request has at most {framing.MAX_REQUEST:,} bytes")
        self._requests[request.id] = request
        return frame

    def pop(self, request_id: int) -> Request:
        """Take out the request that is answered."""
        request = self._requests.pop(request_id)
        request.answered = True
        return request

    def is_sent(self, request: Request) -> bool:
        """Whether a request was entered, answered by now or not."""
        return request.answered or request.id in self._requests

    def again(self) -> list[tuple[bytes, list[int]]]:
        """Return the frames and descriptors to send on a new connection: all requests, and the
        deletions that no store has heard of.
        """
        if self._undeleted:
            self.add(Request(m.Delete(list(self._undeleted), True)))
            self._undeleted.clear()
        frames = []
        for request_id, request in self._requests.items():
            request.resent = True
            message = request.message
            if isinstance(message, m.Delete):  # it may have been done before the crash
                message = m.Delete(message.object_ids, True)
            frame = framing.pack(message.kind, request_id, message, len(request.fds))
            frames.append((frame, request.fds))
        return frames

    def hung_up(self) -> list[Request]:
        """Count that the store hung up over all of them; take out those over which it did so twice
        in a row.
        """
        for request in self._requests.values():
            request.hang_ups += 1
        failed = [i for i, r in self._requests.items() if r.hang_ups >= _MOST_HANG_UPS]
        return [self.pop(request_id) for request_id in failed]

    def take(self) -> list[Request]:
        """Take out all, which are to fail. What they delete is deleted later all the same."""
        requests = [self.pop(request_id) for request_id in list(self._requests)]
        for request in requests:
            if isinstance(request.message, m.Delete):
                self._undeleted.update(request.message.object_ids)
        return requests

    def forget_deletions(self) -> None:
        """The store has begun anew: there is nothing left to delete."""
        self._undeleted.clear()


def check_id(object_id: bytes) -> None:
    """Raise TypeError or ValueError for what is no object's id."""
    if not isinstance(object_id, bytes):
        raise TypeError(
            f"an object's id is bytes, not {type(object_id).__name__}: {object_id!r:.100}"
        )
    if not 1 <= len(object_id) <= MAX_ID:
        raise ValueError(f"an object's id has 1 to {MAX_ID} bytes, not {len(object_id)}")


def check_name(name: str) -> None:
    """Raise TypeError or ValueError for what is no object's name."""
    if not isinstance(name, str):
        raise TypeError(f"an object's name is a str, not {type(name).__name__}: {name!r:.100}")
    if not 1 <= len(name) <= MAX_ID:
        raise ValueError(f"an object's name has 1 to {MAX_ID} characters, not {len(name)}")
    name.encode()  # raises for half of a surrogate pair, which does not travel


def check_ids(object_ids: Any) -> list[bytes]:
    """Return ids as a list. Raises TypeError or ValueError for what are none."""
    if isinstance(object_ids, str | bytes | bytearray | memoryview):
        raise TypeError(f"ids are a list or the like of bytes, not {type(object_ids).__name__}")
    ids = list(object_ids)
    for object_id in ids:
        check_id(object_id)
    return ids
