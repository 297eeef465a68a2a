"""The effects of handlers: what is to happen outside of the server's state.

Handlers change the state and collect effects here. The server carries them out after the handler
has returned, in the order in which they were collected. So no handler is entered again amid its
work, and handlers can be tested without sockets.

New bounds of producers go before the other effects. Threads, pidfds and files that nobody else has
seen yet are no effects; nor is what `replication` sends to a supervisor that joins.

The order is what keeps data safe when the server is killed. A change is replicated before anybody
is told of it: a client that has its answer can rely on it. And it is replicated before the bytes
that it frees are reused or punched: a supervisor that still refers to them would start a server
that hands out other bytes.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from zerrow_store.protocol.events import Event
from zerrow_store.protocol.notices import Notice
from zerrow_store.server.connection import Call, Connection


class Effect(msgspec.Struct):
    """Something that is to happen."""


class Replicate(Effect):
    """Send an event to the supervisors. The descriptors stay open until that is done."""

    event: Event
    descriptors: Sequence[int]


class HandOver(Effect):
    """Send a supervisor, known by its identity, all there is."""

    connection: Connection
    identity: bytes


class Notify(Effect):
    """Send a notice to a connection."""

    connection: Connection
    notice: Notice


class NotifyAll(Effect):
    """Send a notice to all connections of a role; without one, to all but the supervisors'."""

    notice: Notice
    role: str | None


class Reply(Effect):
    """Answer a request. The descriptors go along, and are closed."""

    call: Call
    body: Any
    descriptors: Sequence[int]


class Refuse(Effect):
    """Answer a request with an error."""

    call: Call
    error: Exception


class Punch(Effect):
    """Give a range (start, end) of a file back to the kernel."""

    descriptor: int
    start: int
    end: int


class Close(Effect):
    """Close a descriptor."""

    descriptor: int


class Stop(Effect):
    """End the store."""


class Effects:
    """Effects that were collected, in order."""

    def __init__(self) -> None:
        self._collected: list[Effect] = []

    def take(self) -> list[Effect]:
        """Return the effects, and have none."""
        collected, self._collected = self._collected, []
        return collected

    def replicate(self, event: Event, descriptors: Sequence[int] = ()) -> None:
        """See `Replicate`."""
        self._collected.append(Replicate(event, descriptors))

    def hand_over(self, connection: Connection, identity: bytes) -> None:
        """See `HandOver`."""
        self._collected.append(HandOver(connection, identity))

    def notify(self, connection: Connection, notice: Notice) -> None:
        """See `Notify`."""
        self._collected.append(Notify(connection, notice))

    def notify_all(self, notice: Notice, role: str | None = None) -> None:
        """See `NotifyAll`."""
        self._collected.append(NotifyAll(notice, role))

    def reply(self, call: Call, body: Any, descriptors: Sequence[int] = ()) -> None:
        """See `Reply`."""
        self._collected.append(Reply(call, body, descriptors))

    def refuse(self, call: Call, error: Exception) -> None:
        """See `Refuse`."""
        self._collected.append(Refuse(call, error))

    def punch(self, descriptor: int, start: int, end: int) -> None:
        """See `Punch`."""
        self._collected.append(Punch(descriptor, start, end))

    def close(self, descriptor: int) -> None:
        """See `Close`."""
        self._collected.append(Close(descriptor))

    def stop(self) -> None:
        """See `Stop`."""
        self._collected.append(Stop())
