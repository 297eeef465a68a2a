"""What agents say to each other and to the processes of their machine, with bounds on all of it.

What is malformed raises ProtocolError, which ends the connection.
"""

from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Meta

from zerrow_store.errors import ProtocolError
from zerrow_store.node.messages import Name, ObjectId, SegmentId, Size

Allocation = tuple[SegmentId, Size, Size]
"""Segment, offset, size: as a message has it."""

Piece = tuple[SegmentId, Size, Size, Size, Size]
"""An allocation, and the part of it that is wanted: first byte, length."""

Text = Annotated[str, Meta(max_length=4096)]


class Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What all are: an array of a name and the fields."""


# --- between agents ---


class Read(Message, tag="read"):
    """Have pieces of an object's allocations, one after the other."""

    object_id: ObjectId
    pieces: list[Piece]


class Working(Message, tag="working"):
    """The answer takes a while."""


class Sending(Message, tag="sending"):
    """So many bytes follow this message, outside of any message; then `Sent`."""

    nbytes: Size


class Sent(Message, tag="sent"):
    """Of what was sent, the checksum; nothing where TLS has one of its own."""

    checksum: Annotated[bytes, Meta(max_length=8)]


class Refused(Message, tag="refused"):
    """It cannot be had."""

    reason: Text


# --- between an agent and the processes of its machine ---


class Serve(Message, tag="serve"):
    """Listen on this address for other machines."""

    host: Name


class Serving(Message, tag="serving"):
    """Where it listens: host:port."""

    location: Name


class Fetch(Message, tag="fetch"):
    """Land another machine's object. It is held until this connection ends."""

    location: Name
    object_id: ObjectId
    allocations: list[Allocation]


class Landed(Message, tag="landed"):
    """The object here, and where each allocation lies: segment, offset."""

    object_id: ObjectId
    places: list[tuple[SegmentId, Size]]


class Failed(Message, tag="failed"):
    """An error, as `wire_errors` describes it."""

    error: list[Any]


def encode(message: Message) -> bytes:
    """Return a message as it travels."""
    return msgspec.msgpack.encode(message)


M = TypeVar("M")


class Decoder(Generic[M]):
    """Decodes messages that are one of some kinds."""

    def __init__(self, kinds: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)

    def __call__(self, payload: bytes) -> M:
        """Return a message. Raises ProtocolError for one that is malformed."""
        try:
            return cast(M, self._decoder.decode(payload))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"a malformed message: {error}") from None


READ: Decoder[Read] = Decoder(Read)
ANSWER: Decoder[Working | Sending | Sent | Refused] = Decoder(Working | Sending | Sent | Refused)
ASKED: Decoder[Serve | Fetch] = Decoder(Serve | Fetch)
REPLY: Decoder[Serving | Landed | Failed] = Decoder(Serving | Landed | Failed)
