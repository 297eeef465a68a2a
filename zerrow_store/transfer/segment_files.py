"""The transfer agent's connection to its store.

It has segments as open files, mapped nowhere.

What is sent goes from the file to the network; a file that somebody truncates, or a disk that
fails, is an error then, where a mapping gives a signal that ends the process.
"""

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from zerrow_store.client.client import Allocations, Client, unpacked
from zerrow_store.client.connection import Call
from zerrow_store.client.holds import Hold
from zerrow_store.client.requests import Request, moved_places
from zerrow_store.errors import ObjectLostError
from zerrow_store.protocol import messages as m
from zerrow_store.protocol import notices


class SegmentFile:
    """A segment's descriptor, open as long as this is referred to: by whoever sends from it, too.
    A number that is closed too early is another file's soon.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Neighbourhood(Protocol):
    """What the store tells the agent of objects whose owners are on another machine than they are.

    All are called by the thread that reads what the store says, and may not wait for the store.
    """

    def whose(self, object_id: bytes, carrier: m.Carrier) -> None:
        """Somebody is to be found who owns what carries an object, and `claim` to be called."""

    def removed(self, object_id: bytes) -> None:
        """An object of this machine has gone, or one of another machine that belonged to this."""

    def connected(self, watch: Callable[[list[bytes]], list[bytes]]) -> None:
        """The store is connected to; it was away, or is new. `watch`: see `FileClient`."""


class FileClient(Client):
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    _role = "agent"
    neighbourhood: Neighbourhood | None = None

    def _introduce(self, call: Call) -> None:
        super()._introduce(call)
        if self.neighbourhood is not None:
            self.neighbourhood.connected(lambda ids: call(m.Watch(ids)))

    def watch(self, object_ids: list[bytes]) -> list[bytes]:
        """Return which of these objects, or proxies, are not there. Of the others the neighbourhood
        is told when they go.
        """
        found: list[bytes] = self._request(m.Watch(object_ids))
        return found

    def land(
        self,
        object_id: bytes,
        landed: bytes,
        moved: list[tuple[bytes, int, bytes, int]],
        node: bytes,
    ) -> Hold:
        """Enter a copy of another machine's object, in the bytes of an object that this client
        holds; return a hold of it. The copy stays until it is deleted, or memory is short.

        node: whose store says when it is to go; empty: this one, if it has a proxy; else the copy
        goes with its last hold. Raises ObjectExistsError if there is a copy.
        """
        request = self._send(Request(m.Land(object_id, landed, moved, node)))
        hold = self._held_now(request, object_id)
        hold.moved = moved_places(moved)
        return hold

    def owned_elsewhere(self) -> dict[bytes, list[bytes]]:
        """Return, by the owner's machine, the objects whose owners are on other machines."""
        objects: dict[bytes, list[bytes]] = self._request(m.Elsewhere())
        return objects

    def claim(self, object_id: bytes, node: bytes | None) -> None:
        """Say on which machine an object's owner is; None: on none."""
        self._send_quietly(m.Claim(object_id, node is not None, node or b""))

    def put_proxy(self, object_id: bytes, carrier: m.Carrier) -> None:
        """Enter a proxy of another machine's object. Raises NoOwnerError."""
        put = m.Put(object_id, b"", [], None, False, False, (0, 0, 0), carrier=carrier)
        self._request(put)

    def _begin(self) -> None:
        super()._begin()
        self._files: dict[bytes, SegmentFile] = {}

    def hold_all(self, object_id: bytes) -> tuple[Hold, Allocations, bytes]:
        """Return a hold of an object, its allocations (segment, offset, size), and whose store says
        when it is to go; empty: this machine's.

        Raises ObjectNotFoundError.
        """
        found, hold = self._found(object_id)
        hold.moved = moved_places(found.moves)
        return hold, unpacked(found.allocations), found.node

    def files(self, segment_ids: Iterable[bytes]) -> dict[bytes, SegmentFile]:
        """Return segments' files. Raises ObjectLostError for a segment that is gone."""
        wanted = set(segment_ids)
        self.ensure_segments(wanted)
        try:
            return {segment_id: self._files[segment_id] for segment_id in wanted}
        except KeyError as error:
            raise ObjectLostError(f"segment {error.args[0].hex()} has just gone") from None

    def ensure_segments(self, segment_ids: Iterable[bytes]) -> None:
        """Open segments that are not open yet. Raises ObjectLostError for one that is gone."""
        self._have_sent(set(segment_ids) - self._files.keys())

    def _have_segment(self, segment_id: bytes, fd: int, size: int, *, sealed: bool) -> None:
        self._files[segment_id] = SegmentFile(os.dup(fd))

    def _note(self, notice: notices.Notice) -> None:
        if isinstance(notice, notices.Removed):
            if self.neighbourhood is not None:
                self.neighbourhood.removed(notice.object_id)
        elif isinstance(notice, notices.WhoseElsewhere):
            if self.neighbourhood is None:
                self.claim(notice.object_id, None)
            else:
                self.neighbourhood.whose(notice.object_id, notice.carrier)
        else:
            if isinstance(notice, notices.SegmentGone):
                self._files.pop(notice.segment_id, None)
            super()._note(notice)

    def _lose(self) -> None:
        self._files = {}
        super()._lose()
