"""What a process has at a node store: pins, holds and segments over one connection."""

from collections.abc import Callable
from typing import Literal, Protocol

from zerrow_store.client.connection import Connection
from zerrow_store.client.listener import Call, Listener
from zerrow_store.client.pins import Pins
from zerrow_store.client.segments import Segments
from zerrow_store.errors import ProtocolError
from zerrow_store.native import _native
from zerrow_store.protocol import messages as m
from zerrow_store.protocol import notices


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


class Session(Listener):
    """A connection to the store `name`, once `open` was called, and what this process has there.

    segments: where it has those that the store sends. owner: given if this process may own what
    others publish. missed: called now and then while the store is away for long, to start it again.
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
            self.segments.forget(notice.segment_id)
        elif isinstance(notice, notices.Unpublished):
            _native.bound_unpublished(notice.bound)
        elif isinstance(notice, notices.HoldBack):
            _native.hold_back(notice.seconds)
        elif isinstance(notice, notices.Adopt) and self._owner is not None:
            self._owner.adopts(notice.object_id, notice.reference)
        elif isinstance(notice, notices.Whose) and self._owner is not None:
            mine = self._owner.claims(notice.object_id, notice.reference)
            self.connection.notify(m.Claim(notice.object_id, mine))
        else:
            raise ProtocolError(f"the store sent {notice.kind!r}, which is not for this process")

    def released(self) -> None:
        """See `Listener`."""
        self.segments.tidy()
