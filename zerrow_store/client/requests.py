"""Requests to a node store under way, and what their answers hand out."""

import os
import queue
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from zerrow_store.client.spill_reader import Checked
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.places import Place

Moved = dict[Place, Place]
"""Where allocations lie, as they were spilled, or are copies of another machine's."""


class Hold:
    """Keeps an object in the store until it is collected, once the store has confirmed it.

    moved: where allocations lie that the object's message has elsewhere.
    checked: stands for those of them that need not be checked again while this is alive.
    """

    __slots__ = ("__weakref__", "_object_id", "_pid", "_releases", "checked", "moved")

    def __init__(self, object_id: bytes) -> None:
        self._object_id = object_id
        self._releases: queue.SimpleQueue[bytes | None] | None = None
        self._pid = os.getpid()
        self.moved: Moved = {}
        self.checked: tuple[Checked, ...] = ()

    def __del__(self) -> None:
        self.checked = ()  # before the store is told: it may drop them then
        # SimpleQueue.put is safe here: it takes no lock that this thread could hold already.
        if self._releases is not None and self._pid == os.getpid():
            self._releases.put(self._object_id)


@dataclass(eq=False)
class Request:
    """A request under way. own: what is unpinned if it fails. fds: the sender's, sent along.

    hang_ups: how often the store hung up while it was under way. abandoned: nobody waits any more.
    """

    message: m.Request
    own: bytes = b""
    fds: list[int] = field(default_factory=list)
    future: "Future[Any]" = field(default_factory=Future)
    hang_ups: int = 0
    abandoned: bool = False


def offsets_of(pairs: bytes) -> bytes:
    return b"".join(pairs[i : i + 8] for i in range(0, len(pairs), 16))


def moved_places(places: list[Any]) -> Moved:
    return {(segment, offset): (file, at) for segment, offset, file, at in places}


def check_id(object_id: bytes) -> None:
    """Raise TypeError or ValueError for what is no object's id."""
    if not isinstance(object_id, bytes):
        raise TypeError(
            f"an object's id is bytes, not {type(object_id).__name__}: {object_id!r:.100}"
        )
    if not 1 <= len(object_id) <= m.MAX_ID:
        raise ValueError(f"an object's id has 1 to {m.MAX_ID} bytes, not {len(object_id)}")


def check_ids(object_ids: Any) -> list[bytes]:
    """Return ids as a list. Raises TypeError or ValueError for what are none."""
    if isinstance(object_ids, str | bytes | bytearray | memoryview):
        raise TypeError(f"ids are a list or the like of bytes, not {type(object_ids).__name__}")
    ids = list(object_ids)
    for object_id in ids:
        check_id(object_id)
    return ids
