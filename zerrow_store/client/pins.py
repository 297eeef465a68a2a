"""Pins: published allocations stay in the process's arena for as long as a store refers to them.

The first publication over a connection that names an allocation registers it, and one pin is kept.
One notice frees it. The reading thread handles both, in the order in which the store sent them, so
a pin is never taken for another one. It also concludes interrupted requests, and then undoes them.
"""

import contextlib
import os
import weakref
from collections.abc import Iterable
from typing import Any

from zerrow_store import forks
from zerrow_store._ledger import OffsetSet
from zerrow_store.client.connection import Connection
from zerrow_store.client.listener import Call, Listener
from zerrow_store.client.requests import Request
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.native import _native
from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m


class Pins:
    """The pinned allocations that a process has published to one store.

    owner_id: the process's name as an owner; empty if it cannot own what others publish.
    """

    def __init__(self, connection: Connection, owner_id: bytes) -> None:
        self._connection = connection
        self._owner_id, self._owner_pid = owner_id, os.getpid()
        self.begin()

    def begin(self) -> None:
        """Begin with nothing published: at first, and in a forked child."""
        self.attached = False
        self._published_before = False
        self._registered = OffsetSet()

    def attach(self) -> None:
        """Attach this process's arena to the store, before anything in it is published."""
        with _attaching:
            if self.attached:
                return
            name = self._connection.name
            others = _stores - {name}
            _stores.add(name)
            _pins.add(self)
            self._announce()
            # Tell the other stores that the arena is shared: at this process's end, a store must
            # not free what another one refers to. A connection that is down tells its store itself,
            # once it is up.
            for pins in list(_pins):
                if pins._connection.is_up and pins._connection.name in others:
                    with contextlib.suppress(StoreUnavailableError):
                        pins._announce()
                        others.discard(pins._connection.name)
            for other in others:
                with contextlib.suppress(StoreUnavailableError):
                    _tell(other)

    def introduce(self, call: Call) -> None:
        """Attach the arena to a newly connected store, and unpin what it does not refer to."""
        if self.attached:
            message, fd = self._segment()
            live: bytes = call(message, [fd])
            _native.unpin(self._registered.retain(live))

    def lose(self) -> None:
        """Note that the store has begun anew. Readers of its earlier objects have no holds any
        more, so these objects stay pinned. The store does not know them, and must not free them at
        this process's end.
        """
        self._registered = OffsetSet()
        self._published_before |= self.attached

    def register(self, own: bytes) -> None:
        """Keep one pin for each allocation that the store now refers to."""
        _native.unpin(self._registered.add(own))

    def free(self, offsets: bytes) -> None:
        """Unpin allocations that the store does not refer to any more."""
        _native.unpin(self._registered.remove(offsets))

    def _announce(self) -> None:
        message, fd = self._segment()
        self._connection.wait(self._connection.send(_Attach(self, message, [fd])))

    def _segment(self) -> tuple[m.Attach, int]:
        segment_id, fd, size = _native.arena_segment()
        # A forked child does not own its parent's references.
        owner_id = self._owner_id if self._owner_pid == os.getpid() else b""
        shared = self._published_before or len(_stores) > 1
        return m.Attach(segment_id, size, shared, owner_id), fd


class _Attach(Request):
    def __init__(self, pins: Pins, message: m.Attach, fds: Iterable[int]) -> None:
        super().__init__(message, fds)
        self._pins = pins

    def replied(self, reply: Any, frame: framing.Frame) -> Any:
        self._pins.attached = True
        return reply


def _tell(name: str) -> None:
    """Attach this process's arena to a store to which it has no connection."""
    connection = Connection(name, Listener())
    connection.connect()
    Pins(connection, b"")._announce()
    connection.close()


_attaching = Lock()
_stores: set[str] = set()
"""The stores that this process's arena was attached to. `_attaching` guards it, and `_pins`."""
_pins: "weakref.WeakSet[Pins]" = weakref.WeakSet()

forks.register(in_child=_stores.clear)  # the child has another arena
