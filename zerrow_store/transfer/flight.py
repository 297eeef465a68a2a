"""Serving and fetching objects with Arrow Flight.

An object travels as the bytes of its allocations, in the order of its message's allocation table,
cut into batches of one uint8 column. The fetching side lands them in its own arena and publishes
them, so
that the message can be decoded there with the table relocated. Every call carries the cluster's
token.
"""

import hmac
from collections.abc import Iterator
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.flight as flight

from zerrow_store.errors import ObjectLostError
from zerrow_store.native import _native
from zerrow_store.node.client import Client

Allocations = list[tuple[bytes, int, int]]

_SCHEMA = pa.schema([("bytes", pa.uint8())])
_BATCH_BYTES = 16 << 20
# Smaller buffers would travel inside a message instead of in the arena (docs/sipc.md).
_SMALLEST_LANDING = 4096


class ObjectServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves the objects of one node's store to other nodes. Listens from the start.

    host: the address to listen on; `location` then says where.
    """

    def __init__(self, client: Client, host: str, token: str) -> None:
        super().__init__(f"grpc://{host}:0", middleware={"token": _TokenCheck(token)})
        self._client = client
        self.location = f"grpc://{host}:{self.port}"

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> Any:
        """Stream an object's allocations. The ticket is msgpack: [object id, allocations]."""
        object_id, allocations = msgpack.unpackb(ticket.ticket)
        owner = self._client.hold(object_id)
        # What the caller asks for is as the message has it; it may have been spilled since.
        places = [(owner.moved.get((s, o), (s, o)), size) for s, o, size in allocations]
        allocations = [(segment, offset, size) for (segment, offset), size in places]
        # And it is checked against what the object refers to.
        if not set(allocations) <= set(self._client.allocations(object_id)):
            raise flight.FlightServerError("the object has no such allocations")
        self._client.ensure_places([(s, o) for s, o, _ in allocations], owner)
        return flight.GeneratorStream(_SCHEMA, _batches(allocations, owner))


def fetch_object(
    client: Client, location: str, token: str, object_id: bytes, allocations: Allocations
) -> list[tuple[bytes, int]]:
    """Land another store's object in `client`'s store as a transient object.

    Returns where each allocation lies here. Raises ObjectLostError when the
    other store is gone or has not got the object, StoreFullError when it does not fit.
    """
    try:
        landed = _receive(location, token, object_id, allocations)
    except (flight.FlightError, pa.ArrowException, OSError) as error:
        raise ObjectLostError(
            f"object {object_id.hex()} could not be fetched from {location}: {error}"
        ) from error
    encoded = _native.encode_buffers(b"", landed)
    relocated = [(s, offset) for s, offset, _ in _native.message_allocations(encoded.message)]
    client.publish(object_id, encoded, transient=True)
    return relocated


def _receive(
    location: str, token: str, object_id: bytes, allocations: Allocations
) -> list[pa.Buffer]:
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
    ticket = flight.Ticket(msgpack.packb([object_id, allocations]))
    with flight.connect(location) as connection:
        batches = iter(connection.do_get(ticket, options))
        return [_fill(batches, size) for _, _, size in allocations]


def _fill(batches: Iterator[Any], size: int) -> pa.Buffer:
    buffer = pa.allocate_buffer(max(size, _SMALLEST_LANDING))
    target = memoryview(buffer)
    filled = 0
    while filled < size:
        column = next(batches).data.column(0)
        piece = memoryview(column.buffers()[1])[column.offset : column.offset + len(column)]
        target[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled != size:
        raise pa.ArrowInvalid(f"{filled} bytes arrived for an allocation of {size}")
    return buffer


def _batches(allocations: Allocations, owner: object) -> Iterator[pa.RecordBatch]:
    for segment, offset, size in allocations:
        whole = _native.view(segment, offset, size, owner)
        for start in range(0, size, _BATCH_BYTES):
            piece = whole.slice(start, min(_BATCH_BYTES, size - start))
            column = pa.Array.from_buffers(pa.uint8(), piece.size, [None, piece])
            yield pa.record_batch([column], schema=_SCHEMA)


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}"

    def start_call(self, info: flight.CallInfo, headers: dict[str, list[str]]) -> None:
        shown = headers.get("authorization", [""])[0]
        if not hmac.compare_digest(shown.encode(), self._expected.encode()):
            raise flight.FlightUnauthenticatedError("the cluster's token is missing or wrong")
