"""A process's session with a node store."""

from collections.abc import Callable
from typing import Literal, Protocol

from zerrow_store.client import spill_reader
from zerrow_store.client.connection import Connection
from zerrow_store.client.listener import Call, Listener
from zerrow_store.client.pins import Pins
from zerrow_store.client.segments import Segments
from zerrow_store.errors import ProtocolError
from zerrow_store.native import _native
from zerrow_store.protocol import messages as m
from zerrow_store.protocol import notices


class Owner(Protocol):
    """The part of a process that owns objects which other processes publish.

    id: its name as an owner. The thread that reads from the store calls both methods, so neither
    may wait for the store.
    """

    id: bytes

    def claims(self, object_id: bytes, reference: bytes) -> bool:
        """Whether this process owns a reference that is in scope. If so, it deletes the object when
        the reference goes out of scope, which may be at any time.
        """

    def item_stored(self, object_id: bytes, reference: bytes) -> None:
        """Delete an object once a reference is out of scope, which this process owns or is about to
        own. The store may call for this more than once.
        """


class Session(Listener):
    """A session with the store `name`, once `open` was called.

    segments: keeps the segments that the store sends. owner: given if this process may own objects
    that other processes publish. missed: called repeatedly while the store is away for long, to
    start it again.
    """

    def __init__(
        self,
        name: str,
        segments: Segments,
        *,
        role: Literal["client", "agent"] = "client",
        owner: Owner | None = None,
        missed: Callable[[], None] | None = None,
    ) -> None:
        self.connection = Connection(name, self, role)
        self.pins = Pins(self.connection, b"" if owner is None else owner.id)
        self.segments = segments
        self._owner = owner
        self._missed = missed

    def open(self) -> None:
        """Connect. Raises StoreUnavailableError if no store of that name is running."""
        self.connection.connect()
        if self._owner is not None:
            self.pins.attach()

    def begin(self) -> None:
        """See `Listener`."""
        self.pins.begin()
        self.segments.begin()

    def introduce(self, call: Call) -> None:
        """See `Listener`."""
        self.pins.introduce(call)

    def lost(self) -> None:
        """See `Listener`."""
        self.pins.lose()
        self.segments.lose()

    def paused(self) -> None:
        """See `Listener`."""
        _native.bound_unpublished(None)

    def missed(self) -> None:
        """See `Listener`."""
        if self._missed is not None:
            self._missed()

    def note(self, notice: notices.Notice) -> None:
        """See `Listener`."""
        if isinstance(notice, notices.Freed):
            self.pins.free(notice.offsets)
        elif isinstance(notice, notices.SegmentGone):
            spill_reader.forget(notice.segment_id)
            self.segments.forget(notice.segment_id)
        elif isinstance(notice, notices.Unpublished):
            _native.bound_unpublished(notice.bound)
        elif isinstance(notice, notices.HoldBack):
            _native.hold_back(notice.seconds)
        elif isinstance(notice, notices.ItemStored) and self._owner is not None:
            self._owner.item_stored(notice.object_id, notice.reference)
        elif isinstance(notice, notices.Whose) and self._owner is not None:
            mine = self._owner.claims(notice.object_id, notice.reference)
            self.connection.notify(m.Claim(notice.object_id, mine))
        else:
            raise ProtocolError(f"the store sent {notice.kind!r}, which is not for this process")

    def released(self) -> None:
        """See `Listener`."""
        self.segments.tidy()
