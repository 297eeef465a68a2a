"""Requests to a node store, and what their answers hand out."""

import os
import queue
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from zerrow_store import errors
from zerrow_store.node.books import Place
from zerrow_store.node.read_back import Checked

Moved = dict[Place, Place]
"""Where allocations lie since they were spilled."""


class Hold:
    """Keeps an object in the store until it is collected, once the store has confirmed it.

    moved: where allocations lie that the object's message has elsewhere, as they were spilled.
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


@dataclass
class Request:
    kind: str
    body: Any
    own: bytes
    fds: list[int]
    future: "Future[Any]"
    sent_before: bool = False
    abandoned: bool = False


def offsets_of(pairs: bytes) -> bytes:
    return b"".join(pairs[i : i + 8] for i in range(0, len(pairs), 16))


def moved_places(places: list[Any]) -> Moved:
    return {(segment, offset): (file, at) for segment, offset, file, at in places}


def make_error(name: str, arguments: list[Any]) -> Exception:
    cls = getattr(errors, name)
    if cls is errors.StoreFullError:
        needed, used, budget = arguments
        return errors.StoreFullError(needed=needed, used=used, budget=budget)
    error: Exception = cls(*arguments)
    return error
