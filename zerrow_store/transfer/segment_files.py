"""The transfer agent's connection to its store, with segments as open files.

The agent does not map segments. It sends from the file to the network, so a truncated file or a
failing disk is an error. In a mapping it would be a signal that ends the process.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from zerrow_store.client.client import Allocations, Client, unpacked
from zerrow_store.client.hold_requests import GivingRequest
from zerrow_store.client.holds import Hold
from zerrow_store.client.listener import Call
from zerrow_store.client.session import Session
from zerrow_store.errors import ObjectLostError
from zerrow_store.protocol import framing, notices
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Counters
from zerrow_store.protocol.places import moved_places
from zerrow_store.protocol.replies import SentSegment


class SegmentFile:
    """A segment's descriptor, open as long as anything refers to this object.

    Senders refer to it while they send: the number of a descriptor that is closed too early is soon
    another file's.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Neighbourhood(Protocol):
    """Hears from the store of objects whose owners are on another machine than the objects.

    The thread that reads from the store calls all methods, so none may wait for the store.
    """

    def whose(self, object_id: bytes, carrier: m.Carrier) -> None:
        """Find the owner of the reference that carries an object, and call `claim`."""

    def removed(self, object_id: bytes) -> None:
        """Note that an object has ended: one that is here, or whose owner is here."""

    def connected(self, watch: Callable[[list[bytes]], list[bytes]]) -> None:
        """Note a new connection to the store, which was away or is new. watch: see `FileClient`."""


class OpenFiles:
    """The segments that the store has sent; in place of `zerrow_store.client.segments.Segments`."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """See `Segments`."""
        self._files: dict[bytes, SegmentFile] = {}

    def get(self, segment_id: bytes) -> SegmentFile:
        """Return a segment's file. Raises ObjectLostError if the segment has just gone."""
        try:
            return self._files[segment_id]
        except KeyError:
            raise ObjectLostError(f"segment {segment_id.hex()} has just gone") from None

    def missing(self, segment_ids: Iterable[bytes]) -> set[bytes]:
        """See `Segments`."""
        return set(segment_ids) - self._files.keys()

    def have(self, segment_id: bytes, fd: int, sent: SentSegment) -> None:
        """See `Segments`."""
        self._files[segment_id] = SegmentFile(os.dup(fd))

    def forget(self, segment_id: bytes) -> None:
        """See `Segments`."""
        self._files.pop(segment_id, None)

    def lose(self) -> None:
        """Close all files: a new store sends its own."""
        self._files = {}

    def tidy(self) -> None:
        """Do nothing: there are no views, and files are closed with their last sender."""


class _AgentSession(Session):
    neighbourhood: Neighbourhood | None = None

    def introduce(self, call: Call) -> None:
        super().introduce(call)
        if self.neighbourhood is not None:
            self.neighbourhood.connected(lambda ids: call(m.Watch(ids)))

    def note(self, notice: notices.Notice) -> None:
        if isinstance(notice, notices.Removed):
            if self.neighbourhood is not None:
                self.neighbourhood.removed(notice.object_id)
        elif isinstance(notice, notices.WhoseElsewhere):
            if self.neighbourhood is not None:
                self.neighbourhood.whose(notice.object_id, notice.carrier)
            else:
                self.connection.notify(m.Claim(notice.object_id, False, b""))
        else:
            super().note(notice)


class FileClient(Client):
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    def __init__(self, name: str) -> None:
        self._files = OpenFiles()
        self._agent_session = _AgentSession(name, self._files, role="agent")
        self._open(self._agent_session)

    def listen(self, neighbourhood: Neighbourhood) -> None:
        """Tell a neighbourhood what the store says to the agent."""
        self._agent_session.neighbourhood = neighbourhood

    def watch(self, object_ids: list[bytes]) -> list[bytes]:
        """Return those of these objects, or proxies, that are not there. The neighbourhood is told
        when the others go.
        """
        found: list[bytes] = self._connection.request(m.Watch(object_ids))
        return found

    def land(
        self,
        object_id: bytes,
        landed: bytes,
        moved: list[tuple[bytes, int, bytes, int]],
        node: bytes,
    ) -> Hold:
        """Enter a copy of another machine's object, which takes over the bytes of the object
        `landed`, held by this client; return a hold of the copy. The copy stays until it is deleted
        or memory is short.

        node: the machine whose store says when the object ends. If it is empty, this machine's
        proxy says so; without a proxy the copy goes with its last hold. Raises ObjectExistsError if
        there is a copy already.
        """
        request = _Land(m.Land(object_id, landed, moved, node), self._connection)
        # If the store crashed after it had entered the copy, the answer and the hold are lost.
        hold: Hold = self._connection.wait(self._connection.send(request)) or self.hold(object_id)
        hold.moved = moved_places(moved)
        return hold

    def owned_elsewhere(self) -> dict[bytes, list[bytes]]:
        """Return, by the owner's machine, the objects whose owners are on other machines."""
        objects: dict[bytes, list[bytes]] = self._connection.request(m.Elsewhere())
        return objects

    def claim(self, object_id: bytes, node: bytes | None) -> None:
        """Tell the store on which machine an object's owner is; None if it is on none."""
        self._connection.notify(m.Claim(object_id, node is not None, node or b""))

    def put_proxy(self, object_id: bytes, carrier: m.Carrier) -> None:
        """Enter a proxy of another machine's object. Raises NoOwnerError."""
        put = m.Put(
            object_id=object_id,
            own=b"",
            foreign=[],
            message=None,
            transient=False,
            owned=False,
            counters=Counters(),
            carrier=carrier,
        )
        self._connection.wait(self._sent(put))

    def hold_all(self, object_id: bytes) -> tuple[Hold, Allocations, bytes]:
        """Return a hold of an object, its allocations (segment, offset, size), and the machine
        whose store says when the object ends; empty for this one.

        Raises ObjectNotFoundError.
        """
        found, hold = self._found(object_id)
        hold.moved = moved_places(found.moves)
        return hold, unpacked(found.allocations), found.node

    def files(self, segment_ids: Iterable[bytes]) -> dict[bytes, SegmentFile]:
        """Return segments' files. Raises ObjectLostError for a segment that is gone."""
        wanted = set(segment_ids)
        self.ensure_segments(wanted)
        return {segment_id: self._files.get(segment_id) for segment_id in wanted}


class _Land(GivingRequest):
    message: m.Land

    def replied(self, reply: bool, frame: framing.Frame) -> Hold | None:
        return self._connection.holds.confirm(self.message.object_id) if reply else None

    def refused(self, error: Exception) -> Any:
        return None if self.has_counted(error) else super().refused(error)
