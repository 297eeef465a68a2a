"""What agents say to each other and to the processes of their machine, with bounds on all of it.

What is malformed raises ProtocolError, which ends the connection.
"""

from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Meta

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol.fields import Name, ObjectId, OwnerId, SegmentId, Size
from zerrow_store.protocol.messages import Carrier, Report

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
    """This end is at work."""


class Sending(Message, tag="sending"):
    """So many bytes follow this message, outside of any message; then `Sent`. node: the machine
    whose store says when the object is to go; empty: this one.
    """

    nbytes: Size
    node: OwnerId = b""


class Sent(Message, tag="sent"):
    """Of what was sent, the checksum; nothing where TLS has one of its own."""

    checksum: Annotated[bytes, Meta(max_length=8)]


class Taken(Message, tag="taken"):
    """What `Read` asked for is here, or what `Fetch` did is held by who asked. There is no answer;
    the connection may be used again.
    """


class Refused(Message, tag="refused"):
    """It cannot be had."""

    reason: Text


class Seek(Message, tag="seek"):
    """Say where an object of yours is to be read. location: where this end will serve its copy;
    empty: nowhere.
    """

    object_id: ObjectId
    location: Text


class At(Message, tag="at"):
    """The answer to `Seek`: it is to be read at this location; empty: here."""

    location: Text


class Tried(Message, tag="tried"):
    """The answer to `At`: whether this end has the object now. If not, another `At` follows."""

    landed: bool


class Follow(Message, tag="follow"):
    """Say from now on when objects go that are on my machine, while their owners, or what they are
    copies of, are on yours; at once, of those which have gone. Also says that this end is alive.
    """

    object_ids: list[ObjectId]


class Whose(Message, tag="whose"):
    """Does a process of your machine own what carries this object? If so, follow it."""

    object_id: ObjectId
    carrier: Carrier


class Owned(Message, tag="owned"):
    """The answer to `Whose`."""

    object_id: ObjectId
    mine: bool


class LetGo(Message, tag="let_go"):
    """Owners have let go of these objects. Also says that this end is alive."""

    object_ids: list[ObjectId]


class Figures(Message, tag="figures"):
    """Have a report of the store."""

    what: Report


class Figured(Message, tag="figured"):
    """The report that `Figures` asks for, as it travels."""

    figures: Any


class Ahead(Message, tag="ahead"):
    """Spill objects as soon as nobody reads them, or read what of them is on disk."""

    spill: bool
    object_ids: list[ObjectId]


class Done(Message, tag="done"):
    """What was asked for is under way."""


# --- between an agent and the processes of its machine ---


class Serve(Message, tag="serve"):
    """Listen on this address for other machines."""

    host: Name


class Serving(Message, tag="serving"):
    """Where it listens: host:port."""

    location: Name


class Fetch(Message, tag="fetch"):
    """Land another machine's object. It is held until that has been `Taken`, or this connection
    ends. location: where it is; empty: that machine is gone, another one may have a copy.
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
