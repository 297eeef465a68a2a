"""The messages of transfer agents.

They are between agents, and between an agent and the processes of its machine. All fields have
bounds. A malformed message raises ProtocolError, which ends the connection.
"""

from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Meta

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol.fields import Name, ObjectId, OwnerId, SegmentId, Size
from zerrow_store.protocol.messages import Carrier, Report

Allocation = tuple[SegmentId, Size, Size]
"""Segment, offset, size, as in an object's SIPC message."""

Piece = tuple[SegmentId, Size, Size, Size, Size]
"""An allocation, and the wanted part of it: first byte, length."""

Text = Annotated[str, Meta(max_length=4096)]


class Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A message: an array of its name and its fields."""


# --- between agents ---


class Read(Message, tag="read"):
    """Send pieces of an object's allocations, one after the other."""

    object_id: ObjectId
    pieces: list[Piece]


class Working(Message, tag="working"):
    """This end is at work."""


class Sending(Message, tag="sending"):
    """`nbytes` bytes follow this message, outside of any message, then `Sent`. node: the machine
    whose store says when the object ends; empty for the sender's.
    """

    nbytes: Size
    node: OwnerId = b""


class Sent(Message, tag="sent"):
    """The checksum of the bytes that were sent; empty under TLS, which has its own."""

    checksum: Annotated[bytes, Meta(max_length=8)]


class Taken(Message, tag="taken"):
    """The result of `Read` has arrived, or the process holds the result of `Fetch`. There is no
    answer; the connection is free for the next request.
    """


class Refused(Message, tag="refused"):
    """The request cannot be met. is_lacking: the object is not here."""

    reason: Text
    is_lacking: bool = False


class Seek(Message, tag="seek"):
    """Say where to read an object of yours. location: where this end will serve its copy; empty if
    it serves none.
    """

    object_id: ObjectId
    location: Text


class At(Message, tag="at"):
    """The answer to `Seek`: read the object at this location; empty for this machine."""

    location: Text


class Tried(Message, tag="tried"):
    """The answer to `At`: whether this end now has the object. If not, another `At` follows."""

    landed: bool


class Follow(Message, tag="follow"):
    """Tell me when these objects end, which are on my machine: their owners, or the originals that
    they are copies of, are on yours. Those that have ended already are reported at once. An empty
    one says that this end is alive.
    """

    object_ids: list[ObjectId]


class Whose(Message, tag="whose"):
    """Does a process of your machine own the reference that carries this object? If so, I follow
    the object.
    """

    object_id: ObjectId
    carrier: Carrier


class Owned(Message, tag="owned"):
    """The answer to `Whose`."""

    object_id: ObjectId
    mine: bool


class LetGo(Message, tag="let_go"):
    """The owners have deleted these objects. An empty one says that this end is alive."""

    object_ids: list[ObjectId]


class Figures(Message, tag="figures"):
    """Send a report of the store."""

    what: Report


class Figured(Message, tag="figured"):
    """The report that `Figures` asks for, as it travels."""

    figures: Any


class Ahead(Message, tag="ahead"):
    """Spill objects as soon as nobody reads them, or read their spilled bytes from disk."""

    spill: bool
    object_ids: list[ObjectId]


class Done(Message, tag="done"):
    """The request is under way."""


# --- between an agent and the processes of its machine ---


class Serve(Message, tag="serve"):
    """Listen on this address for other machines."""

    host: Name


class Serving(Message, tag="serving"):
    """Where it listens: host:port."""

    location: Name


class Fetch(Message, tag="fetch"):
    """Land another machine's object. The agent holds it until the process says `Taken`, or hangs
    up. location: where the object is; empty if that machine is gone, and another may have a copy.
    """

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
    """Return an encoded message."""
    return msgspec.msgpack.encode(message)


M = TypeVar("M")


class Decoder(Generic[M]):
    """Decodes messages of given types."""

    def __init__(self, kinds: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)

    def __call__(self, payload: bytes) -> M:
        """Return a message. Raises ProtocolError for one that is malformed."""
        try:
            return cast(M, self._decoder.decode(payload))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"a malformed message: {error}") from None


REQUEST: Decoder[Read | Taken | Seek | Figures | Ahead | Follow] = Decoder(
    Read | Taken | Seek | Figures | Ahead | Follow
)
FIGURED: Decoder[Figured] = Decoder(Figured)
DONE: Decoder[Done] = Decoder(Done)
FOLLOWED: Decoder[Follow | Whose] = Decoder(Follow | Whose)
OWNED: Decoder[Owned | LetGo] = Decoder(Owned | LetGo)
ANSWER: Decoder[Working | Sending | Sent | Refused] = Decoder(Working | Sending | Sent | Refused)
PLACE: Decoder[Working | At | Refused] = Decoder(Working | At | Refused)
SOUGHT: Decoder[Working | Tried] = Decoder(Working | Tried)
ASKED: Decoder[Serve | Fetch | Taken] = Decoder(Serve | Fetch | Taken)
REPLY: Decoder[Serving | Landed | Failed] = Decoder(Serving | Landed | Failed)
