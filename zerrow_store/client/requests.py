"""Requests under way to a node store.

A sender may be interrupted anywhere, by control-C or by Ray's cancellation. So it waits on a queue,
which is implemented in C; Python's events and futures could stay locked. The result is stored in
the request before the sender wakes, so a result that nobody waits for goes with the request.
"""

import itertools
import queue
from collections.abc import Iterable
from typing import Any

from zerrow_store.errors import ObjectExistsError
from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import MAX_ID

_MOST_HANG_UPS = 2


class Request:
    """A request under way. Subclasses do more with the answer.

    fds: the descriptors that are sent with it. hang_ups: how often the store hung up while it was
    under way. resent: whether the store may have received it twice. answered: whether it is no
    longer under way. abandoned: whether nobody waits for it. concluded: whether `result` or `error`
    is set.
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
        """Set the result or the error, once, and wake the sender."""
        self.result, self.error, self.concluded = result, error, True
        self._over.put(None)

    def wait(self) -> Any:
        """Wait for the conclusion; return the result, or raise the error. For a single thread."""
        if not self.concluded:
            self._over.get()
        if self.error is not None:
            raise self.error
        return self.result

    def has_counted(self, error: Exception) -> bool:
        """Whether an error says only that the request, which was sent twice around a crash of the
        store, succeeded the first time. The answer, and a hold that it gave, are lost then.
        """
        return self.resent and isinstance(error, ObjectExistsError)

    # --- handling the answer; called by the thread that reads it ---

    def replied(self, reply: Any, frame: framing.Frame) -> Any:
        """Handle the reply; return the sender's result."""
        return reply

    def refused(self, error: Exception) -> Any:
        """Handle an error; return the sender's result, or raise the error."""
        raise error

    def undo(self) -> None:
        """Undo the effect of a request for which nobody waits any more."""

    def clear(self) -> None:
        """Release what was sent along, once the request is over or was never sent."""


class UnderWay:
    """The requests that are not answered: sent already, or as soon as the store is there.

    The caller has the connection's lock.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._requests: dict[int, Request] = {}
        self._undeleted: set[bytes] = set()

    def add(self, request: Request) -> bytes:
        """Enter a request; return its frame. A request that is too large raises ValueError, and is
        not entered.
        """
        message = request.message
        request.id = next(self._ids)
        frame = framing.pack(message.kind, request.id, message, len(request.fds))
        if len(frame) > framing.MAX_REQUEST:
            raise ValueError(f"a request has at most {framing.MAX_REQUEST:,} bytes")
        self._requests[request.id] = request
        return frame

    def pop(self, request_id: int) -> Request:
        """Remove and return the request that was answered."""
        request = self._requests.pop(request_id)
        request.answered = True
        return request

    def is_sent(self, request: Request) -> bool:
        """Whether a request was entered, whether it has been answered or not."""
        return request.answered or request.id in self._requests

    def again(self) -> list[tuple[bytes, list[int]]]:
        """Return the frames and descriptors to send on a new connection: those of all requests, and
        of the deletions that have failed.
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
        """Count that the store hung up. Remove and return the requests over which it did so twice
        in a row.
        """
        for request in self._requests.values():
            request.hang_ups += 1
        failed = [i for i, r in self._requests.items() if r.hang_ups >= _MOST_HANG_UPS]
        return [self.pop(request_id) for request_id in failed]

    def take(self) -> list[Request]:
        """Remove and return all requests, which are to fail. Deletions are made up for later."""
        requests = [self.pop(request_id) for request_id in list(self._requests)]
        for request in requests:
            if isinstance(request.message, m.Delete):
                self._undeleted.update(request.message.object_ids)
        return requests

    def forget_deletions(self) -> None:
        """Forget failed deletions: the store has begun anew, and has nothing to delete."""
        self._undeleted.clear()


def check_id(object_id: bytes) -> None:
    """Raise TypeError or ValueError for an invalid object id."""
    if not isinstance(object_id, bytes):
        raise TypeError(
            f"an object's id is bytes, not {type(object_id).__name__}: {object_id!r:.100}"
        )
    if not 1 <= len(object_id) <= MAX_ID:
        raise ValueError(f"an object's id has 1 to {MAX_ID} bytes, not {len(object_id)}")


def check_name(name: str) -> None:
    """Raise TypeError or ValueError for an invalid object name."""
    if not isinstance(name, str):
        raise TypeError(f"an object's name is a str, not {type(name).__name__}: {name!r:.100}")
    if not 1 <= len(name) <= MAX_ID:
        raise ValueError(f"an object's name has 1 to {MAX_ID} characters, not {len(name)}")
    name.encode()  # raises for a lone surrogate, which cannot be encoded


def check_ids(object_ids: Any) -> list[bytes]:
    """Return object ids as a list. Raises TypeError or ValueError for invalid ones."""
    if isinstance(object_ids, str | bytes | bytearray | memoryview):
        raise TypeError(f"ids are a list or the like of bytes, not {type(object_ids).__name__}")
    ids = list(object_ids)
    for object_id in ids:
        check_id(object_id)
    return ids
