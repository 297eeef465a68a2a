"""What a process has at a node store: pins in its arena, holds, and mapped segments.

What a process publishes stays pinned in its arena for as long as the store's object table refer to
it. An allocation is registered by the connection's first publication that names it, one pin kept,
and freed by one event; both are handled by the reading thread, in the order in which the store sent
them, so that a pin is never taken for another's. A request that was interrupted is concluded by
that thread all the same, which then undoes it.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zerrow_store import forks
from zerrow_store._ledger import OffsetSet
from zerrow_store.client import sealed_segments, spill_reader
from zerrow_store.client.connection import Call, Connection, connections
from zerrow_store.client.holds import Hold
from zerrow_store.client.requests import Request, moved_places, offsets_of
from zerrow_store.errors import ObjectExistsError, ProtocolError, StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.native import _native
from zerrow_store.protocol import framing, messages, notices
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import SentSegment
from zerrow_store.protocol.wire_errors import decode_error


class Owner(Protocol):
    """What a process does that may own what others publish.

    id: what it is known by. Both are called by the thread that reads what the store says, and may
    not wait for the store.
    """

    id: bytes

    def claims(self, object_id: bytes, reference: bytes) -> bool:
        """Whether this process owns a reference that is alive. If so, it deletes the object when
        that is gone, which may be at any time.
        """

    def adopts(self, object_id: bytes, reference: bytes) -> None:
        """Delete an object after a reference is gone that this process owns, or is about to. The
        store may say this more than once.
        """


class Session(Connection):
    """A connection to the store `name`. Raises StoreUnavailableError if none is running.

    owner: given if this process may own what others publish. missed: called now and then while the
    store is away for long, to start it again.
    """

    def __init__(
        self,
        name: str,
        *,
        owner: Owner | None = None,
        missed: Callable[[], None] | None = None,
    ) -> None:
        self._owner, self._owner_pid = owner, os.getpid()
        self._missed = missed
        super().__init__(name)
        if owner is not None:
            self._attach()

    def _begin(self) -> None:
        super()._begin()
        self._attached = False
        self._published_before = False
        self._registered = OffsetSet()
        self._gone: set[bytes] = set()

    def _introduce(self, call: Call) -> None:
        if self._attached:
            message, fd = self._segment()
            live: bytes = call(message, [fd])
            _native.unpin(self._registered.retain(live))

    def _lose(self) -> None:
        # Whoever reads it has no hold any more that would say so: it stays pinned, and a store that
        # knows nothing of it must not give it back at this process's end.
        self._registered = OffsetSet()
        self._published_before |= self._attached

    def _miss(self) -> None:
        if self._missed is not None:
            self._missed()

    def _pause(self) -> None:
        _native.bound_unpublished(None)

    def _note(self, notice: notices.Notice) -> None:
        if isinstance(notice, notices.Freed):
            _native.unpin(self._registered.remove(notice.offsets))
        elif isinstance(notice, notices.SegmentGone):
            spill_reader.forget(notice.segment_id)
            self._unmap_gone(notice.segment_id)
        elif isinstance(notice, notices.Unpublished):
            _native.bound_unpublished(notice.bound)
        elif isinstance(notice, notices.HoldBack):
            _native.hold_back(notice.seconds)
        elif isinstance(notice, notices.Adopt) and self._owner is not None:
            self._owner.adopts(notice.object_id, notice.reference)
        elif isinstance(notice, notices.Whose) and self._owner is not None:
            mine = self._owner.claims(notice.object_id, notice.reference)
            self._send_quietly(m.Claim(notice.object_id, mine))
        else:
            raise ProtocolError(f"the store sent {notice.kind!r}, which is not for this process")

    # --- publishing ---

    def _attach(self) -> None:
        with _attaching:
            if self._attached:
                return
            others = _stores - {self._name}
            _stores.add(self._name)
            self._announce()
            # Another store must not give back, at this process's end, what only this one knows of.
            # One that is reconnecting tells its store by itself, once there is one.
            for link in [each for each in connections if isinstance(each, Session)]:
                if link._socket is not None and link._name in others:
                    with contextlib.suppress(StoreUnavailableError):
                        link._announce()
                        others.discard(link._name)
            for name in others:
                with contextlib.suppress(StoreUnavailableError):
                    told = Session(name)
                    told._announce()
                    told.close()

    def _announce(self) -> None:
        message, fd = self._segment()
        self._request(message, fds=[fd])

    def _segment(self) -> tuple[m.Attach, int]:
        segment_id, fd, size = _native.arena_segment()
        # A forked child owns nothing of what its parent does.
        owner_id = b"" if self._owner is None or self._owner_pid != os.getpid() else self._owner.id
        shared = self._published_before or len(_stores) > 1
        return m.Attach(segment_id, size, shared, owner_id), fd

    def _begin_publication(self, message: m.Put | m.CachePublish) -> Request:
        """Send a publication, and with it what segments of no process it refers to.

        On failure the allocations are unpinned.
        """
        parts = [message] if isinstance(message, m.Put) else message.columns
        own = b"".join(each.own for each in parts)
        request = Request(message, own)
        try:
            adopted = sealed_segments.take([s for each in parts for s, _ in each.foreign])
            request.fds = [fd for _, fd, _ in adopted]
            message.adopted = [(segment_id, size) for segment_id, _, size in adopted]
            if own or (isinstance(message, m.Put) and message.owned):
                self._attach()
        except BaseException:
            self._abandon(request)
            raise
        return self._send(request)

    def _clear(self, request: Request) -> None:
        if isinstance(request.message, m.Put | m.CachePublish):
            sealed_segments.close(request.fds)
            if not request.answered:
                _native.unpin(offsets_of(request.own))

    # --- answers ---

    def _conclude(self, request: Request, frame: framing.Frame) -> Any:
        message = request.message
        reply: Any = None
        if frame.kind == "reply":
            reply = messages.decode_reply(message, frame.raw)
        else:
            error = decode_error(frame.raw)
            # Sent twice around a crash of the store, and the first time has counted.
            if not (isinstance(error, ObjectExistsError) and request.resent):
                _native.unpin(offsets_of(request.own))
                raise error
            request.existed = True
        if isinstance(message, m.Attach):
            self._attached = True
        elif isinstance(message, m.Put):
            # One pin for each allocation in the object table is enough.
            _native.unpin(self._registered.add(request.own))
        if isinstance(message, m.Put | m.Land):
            # As from now on it may hold what it has put.
            return self._confirmed(message.object_id) if reply else None
        if isinstance(message, m.Get):
            return reply, self._confirmed(message.object_id)
        if isinstance(message, m.Hold):
            hold = self._confirmed(message.object_id, request.hold)
            hold.moved = moved_places(reply)
            return hold
        if isinstance(message, m.CacheOpen):
            return reply, [self._confirmed(hit.object_id) for hit in reply.hits]
        if isinstance(message, m.CachePublish):
            return self._conclude_columns(message.columns, reply)
        if isinstance(message, m.Segments):
            fds = frame.take_descriptors(len(message.segment_ids))
            self._take_segments(message.segment_ids, fds, reply)
        return reply

    def _take_segments(
        self, segment_ids: Sequence[bytes], fds: Sequence[int], segments: Sequence[SentSegment]
    ) -> None:
        """Have segments that the store has sent, whose descriptors are closed then."""
        try:
            for segment_id, fd, sent in zip(segment_ids, fds, segments, strict=True):
                # Registered first: as soon as it is mapped, another thread may read it.
                if sent.checksums:
                    spill_reader.register(segment_id, fd, sent.size, sent.checksums)
                self._have_segment(segment_id, fd, sent.size, sealed=not sent.checksums)
        finally:
            for fd in fds:
                os.close(fd)

    def _have_segment(self, segment_id: bytes, fd: int, size: int, *, sealed: bool) -> None:
        """Map a segment."""
        _native.map_segment(segment_id, fd, size, sealed=sealed)

    def _conclude_columns(
        self, columns: Sequence[m.Column], admitted: Sequence[bool]
    ) -> list[Hold | None]:
        holds: list[Hold | None] = []
        # One at a time: columns share allocations, and each has pinned them.
        for column, ok in zip(columns, admitted, strict=True):
            _native.unpin(self._registered.add(column.own) if ok else offsets_of(column.own))
            holds.append(self._confirmed(column.object_id) if ok else None)
        return holds

    def _undo(self, request: Request) -> None:
        message = request.message
        if isinstance(message, m.Put):
            # What it holds goes with the hold; what existed may be somebody else's.
            if request.result is None and not request.existed:
                self._send_quietly(m.Delete([message.object_id], True))
        elif isinstance(message, m.CacheOpen):
            self._send_quietly(m.CacheRelease(message.token))

    def _unmap_gone(self, *segment_ids: bytes) -> None:
        with self._lock:
            self._gone.update(segment_ids)
            if self._gone:
                mapped = set(_native.mapped_segments())
                self._gone = {s for s in self._gone & mapped if not _native.unmap_segment(s)}


_attaching = Lock()
_stores: set[str] = set()
"""The stores that this process's arena was attached to; guarded by `_attaching`."""

forks.register(in_child=_stores.clear)  # the child's arena is another
