"""Publications: requests that enter encoded data of this process into the object table."""

from collections.abc import Sequence
from typing import Any

from zerrow_store.client import sealed_segments
from zerrow_store.client.connection import Connection
from zerrow_store.client.holds import Hold
from zerrow_store.client.pins import Pins
from zerrow_store.client.requests import Request
from zerrow_store.native import _native
from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Counters
from zerrow_store.protocol.messages import Carrier


class Publication:
    """A publication under way. It is completed even if nobody waits for it."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request

    def wait(self) -> None:
        """Return once the store has taken the object.

        On failure the allocations are unpinned. Raises StoreFullError, ObjectExistsError,
        ObjectLostError.
        """
        self._connection.wait(self._request)


def publish(connection: Connection, pins: Pins, message: m.Put | m.CachePublish) -> Request:
    """Send a publication, together with the sealed segments that it refers to.

    On failure the allocations are unpinned.
    """
    parts: Sequence[m.Put | m.Column]
    request: _Request
    if isinstance(message, m.Put):
        request, parts = PutRequest(message, pins, connection), [message]
    else:
        request, parts = ColumnsRequest(message, pins, connection), message.columns
    try:
        sealed = sealed_segments.take([s for each in parts for s, _ in each.foreign])
        request.fds = [fd for _, fd, _ in sealed]
        message.sealed = [(segment_id, size) for segment_id, _, size in sealed]
        if request.own or (isinstance(message, m.Put) and message.owned):
            pins.attach()
    except BaseException:
        connection.abandon(request)
        raise
    return connection.send(request)


def put_message(
    object_id: bytes,
    encoded: _native.Encoded,
    message: bytes | None,
    *,
    transient: bool = False,
    owned: bool = False,
    carrier: Carrier | None = None,
    name: str | None = None,
) -> m.Put:
    """Return the message that enters an encoded message's allocations."""
    return m.Put(
        object_id=object_id,
        own=encoded.own,
        foreign=encoded.foreign,
        message=message,
        transient=transient,
        owned=owned,
        counters=counters_of(encoded),
        carrier=carrier,
        name=name,
    )


def counters_of(encoded: _native.Encoded) -> Counters:
    """Return the bytes that were shared, reshared and copied."""
    return Counters(encoded.bytes_shared, encoded.bytes_reshared, encoded.bytes_copied)


class _Request(Request):
    """own: the allocations to unpin if the request fails."""

    def __init__(self, message: m.Put | m.CachePublish, pins: Pins, connection: Connection) -> None:
        super().__init__(message)
        self._pins = pins
        self._connection = connection
        self.own = b""

    def refused(self, error: Exception) -> Any:
        _native.unpin(offsets_of(self.own))
        raise error

    def clear(self) -> None:
        sealed_segments.close(self.fds)
        if not self.answered:
            _native.unpin(offsets_of(self.own))


class PutRequest(_Request):
    message: m.Put

    def __init__(self, message: m.Put, pins: Pins, connection: Connection) -> None:
        super().__init__(message, pins, connection)
        self.own = message.own
        self._existed = False  # because of another put, or of this one when it was first sent

    def replied(self, reply: Any, frame: framing.Frame) -> Any:
        self._pins.register(self.own)
        # The reply says whether the store counts a hold of the object for this process.
        return self._connection.holds.confirm(self.message.object_id) if reply else None

    def refused(self, error: Exception) -> Any:
        if not self.has_counted(error):
            return super().refused(error)
        self._existed = True
        self._pins.register(self.own)
        return None

    def undo(self) -> None:
        # A held object goes with its hold; one that existed may be another process's.
        if self.result is None and not self._existed:
            self._connection.notify(m.Delete([self.message.object_id], True))


class ColumnsRequest(_Request):
    message: m.CachePublish

    def __init__(self, message: m.CachePublish, pins: Pins, connection: Connection) -> None:
        super().__init__(message, pins, connection)
        self.own = b"".join(column.own for column in message.columns)

    def replied(self, reply: Sequence[bool], frame: framing.Frame) -> list[Hold | None]:
        holds: list[Hold | None] = []
        # One at a time: columns may share allocations, and each column has pinned them.
        for column, admitted in zip(self.message.columns, reply, strict=True):
            if admitted:
                self._pins.register(column.own)
                holds.append(self._connection.holds.confirm(column.object_id))
            else:
                _native.unpin(offsets_of(column.own))
                holds.append(None)
        return holds


def offsets_of(pairs: bytes) -> bytes:
    """Return the offsets of packed pairs of offset and size."""
    return b"".join(pairs[i : i + 8] for i in range(0, len(pairs), 16))
