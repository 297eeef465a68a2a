"""Pins: what a process has published stays in its arena for as long as a store refers to it.

An allocation is registered by the connection's first publication that names it, one pin kept, and
freed by one event. Both are handled by the reading thread, in the order in which the store sent
them, so that a pin is never taken for another's. A request that was interrupted is concluded by
that thread all the same, which then undoes it.
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
    """What a process has published to one store.

    owner_id: what the process is known by, if it may own what others publish; else empty.
    """

    def __init__(self, connection: Connection, owner_id: bytes) -> None:
        self._connection = connection
        self._owner_id, self._owner_pid = owner_id, os.getpid()
        self.begin()

    def begin(self) -> None:
        """Have published nothing: at first, and in a forked child."""
        self.attached = False
        self._published_before = False
        self._registered = OffsetSet()

    def attach(self) -> None:
        """Let the store know of this process's arena, before anything in it is published."""
        with _attaching:
            if self.attached:
                return
            name = self._connection.name
            others = _stores - {name}
            _stores.add(name)
            _pins.add(self)
            self._announce()
            # Another store must not give back, at this process's end, what only this one knows of.
            # One that is reconnecting tells its store by itself, once there is one.
            for pins in list(_pins):
                if pins._connection.is_up and pins._connection.name in others:
                    with contextlib.suppress(StoreUnavailableError):
                        pins._announce()
                        others.discard(pins._connection.name)
            for other in others:
                with contextlib.suppress(StoreUnavailableError):
                    _tell(other)

    def introduce(self, call: Call) -> None:
        """Tell a store that was just connected to what it has to know of the arena."""
        if self.attached:
            message, fd = self._segment()
            live: bytes = call(message, [fd])
            _native.unpin(self._registered.retain(live))

    def lose(self) -> None:
        """The store has begun anew. Whoever reads what it had has no hold any more that would say
        so: that stays pinned, and a store that knows nothing of it must not give it back at this
        process's end.
        """
        self._registered = OffsetSet()
        self._published_before |= self.attached

    def register(self, own: bytes) -> None:
        """Keep one pin of each allocation that the store now refers to."""
        _native.unpin(self._registered.add(own))

    def free(self, offsets: bytes) -> None:
        """Unpin what the store refers to no more."""
        _native.unpin(self._registered.remove(offsets))

    def _announce(self) -> None:
        message, fd = self._segment()
        self._connection.wait(self._connection.send(_Attach(self, message, [fd])))

    def _segment(self) -> tuple[m.Attach, int]:
        segment_id, fd, size = _native.arena_segment()
        # A forked child owns nothing of what its parent does.
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
    """Tell a store that this process has no connection to of its arena."""
    connection = Connection(name, Listener())
    connection.connect()
    Pins(connection, b"")._announce()
    connection.close()


_attaching = Lock()
_stores: set[str] = set()
"""The stores that this process's arena was attached to; guarded by `_attaching`, as `_pins`."""
_pins: "weakref.WeakSet[Pins]" = weakref.WeakSet()

forks.register(in_child=_stores.clear)  # the child's arena is another
