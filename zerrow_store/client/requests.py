"""Requests to a node store under way, and what their senders wait for.

A sender may be interrupted anywhere, by control-C or by Ray's cancellation, and so waits for a
queue, which is C: Python's events and futures stay locked then. What an answer hands out is in
`result` before the sender wakes: who no longer waits for it drops it by that.
"""

import queue
from dataclasses import dataclass, field
from typing import Any

from zerrow_store.client.holds import Hold, Moved
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import MAX_ID, Moves


@dataclass(eq=False)
class Request:
    """A request under way. own: what is unpinned if it fails. fds: what is sent along.

    hold: what is confirmed by its answer. hang_ups: how often the store hung up over it. resent:
    the store may have got it twice. existed: it had what this puts, before or by that. answered: it
    is not under way any more. abandoned: nobody waits. concluded: `result` or `error` is there.
    """

    message: m.Request
    own: bytes = b""
    fds: list[int] = field(default_factory=list)
    hold: Hold | None = None
    id: int = 0
    hang_ups: int = 0
    resent: bool = False
    existed: bool = False
    answered: bool = False
    abandoned: bool = False
    concluded: bool = False
    result: Any = None
    error: Exception | None = None
    _over: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)

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


def offsets_of(pairs: bytes) -> bytes:
    return b"".join(pairs[i : i + 8] for i in range(0, len(pairs), 16))


def moved_places(moves: Moves) -> Moved:
    return {(segment, offset): (file, at) for segment, offset, file, at in moves}


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
