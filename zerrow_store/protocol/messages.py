"""The requests to a node store.

Each is an array of its fields, and says what its reply is. It is decoded here, before any handler
sees it: a number is finite and within bounds, a list has what it should have, nothing is missing or
left over. A request that is malformed raises ProtocolError, which is the answer. One whose id is 0
has no answer.

The file is long because all requests, which are what a client may do, stand in one place.
"""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol import replies, reports
from zerrow_store.protocol.fields import (
    Allocations,
    Counter,
    Counters,
    Layout,
    Moves,
    Name,
    ObjectId,
    ObjectName,
    OwnerId,
    Sealed,
    Seconds,
    SegmentId,
    Size,
    Unit,
    Wanted,
)
from zerrow_store.protocol.framing import MAX_DESCRIPTORS
from zerrow_store.protocol.schema import Message, Schema


class Request(Message):
    """A request. reply: the type of its reply; None if that says only that it is done."""

    reply: ClassVar[Any] = None

    @property
    def descriptors(self) -> int:
        """How many descriptors go with it."""
        return 0


class Hello(Request):
    """The first request of a connection.

    Attributes
    ----------
    version
        `framing.PROTOCOL_VERSION` of the process.
    role
        An observer asks for figures; it does not count as a user of the store.
    identity
        The name by which a supervisor or a client is known when it connects again. A client without
        one loses its holds with its connection.
    """

    kind: ClassVar[str] = "hello"
    reply: ClassVar[Any] = replies.Greeting
    version: int
    role: Literal["client", "supervisor", "agent", "observer"]
    identity: Annotated[bytes, Meta(max_length=64)] = b""


class Returned(Request):
    """The client has asked for all its holds again, after it has connected."""

    kind: ClassVar[str] = "returned"


class Goodbye(Request):
    """The client ends its holds and its connection."""

    kind: ClassVar[str] = "goodbye"


class TakeOver(Request):
    """The supervisor has the whole snapshot: from now on it counts."""

    kind: ClassVar[str] = "take_over"


class Attach(Request):
    """Attach the process's arena, whose descriptor goes with this. The reply has the offsets of its
    allocations that objects refer to.

    Attributes
    ----------
    shared
        Whether objects of other stores lie in it, too.
    owner_id
        The name of the process as an owner; empty if it owns no objects of others.
    """

    kind: ClassVar[str] = "attach"
    reply: ClassVar[Any] = bytes
    segment_id: SegmentId
    size: Size
    shared: bool = False
    owner_id: OwnerId = b""

    @property
    def descriptors(self) -> int:
        return 1


class Carrier(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The reference that carries an object to its owner, the process where it is counted.

    Attributes
    ----------
    owner_id
        The name of the owner; empty if it is not known.
    node
        The owner's machine; empty if it is not known.
    group
        References of one group most often have owners on the same machine.
    """

    reference: Annotated[bytes, Meta(min_length=1, max_length=64)]
    owner_id: OwnerId = b""
    node: OwnerId = b""
    group: OwnerId = b""


class Put(Request):
    """Enter an object. The reply says whether the connection holds it now.

    Attributes
    ----------
    own
        Its allocations in the process's arena, packed like those of `foreign`.
    foreign
        Its allocations in other segments.
    message
        What `Get` returns; None if the message travels elsewhere.
    transient
        Whether the connection holds it, and it goes with its last hold.
    owned
        Whether it belongs to this process.
    counters
        The bytes that were shared, reshared and copied for it.
    sealed
        Sealed segments that come along.
    carrier
        Given if it belongs to another process.
    name
        Of the object; the object that has the name is deleted.
    """

    kind: ClassVar[str] = "put"
    reply: ClassVar[Any] = bool
    object_id: ObjectId
    own: bytes
    foreign: Allocations
    message: bytes | None
    transient: bool
    owned: bool
    counters: Counters
    sealed: Sealed = msgspec.field(default_factory=list)
    carrier: Carrier | None = None
    name: ObjectName | None = None

    def __post_init__(self) -> None:
        _check_packed(self)
        if self.name is not None and self.message is None:
            raise ValueError("a named object needs a message")

    @property
    def descriptors(self) -> int:
        return len(self.sealed)


class Carried(Request):
    """See `Client.carried`."""

    kind: ClassVar[str] = "carried"
    object_ids: list[ObjectId]
    reference: Annotated[bytes, Meta(min_length=1, max_length=64)]


class Claim(Request):
    """Answer the notice `whose` or `whose_elsewhere`.

    Attributes
    ----------
    mine
        Whether the process owns the reference that carries the object.
    node
        Given by the transfer agent, which answers for other machines: the owner's machine.
    """

    kind: ClassVar[str] = "claim"
    object_id: ObjectId
    mine: bool
    node: OwnerId = b""


class Get(Request):
    """Hold an object; the reply has its message and its allocations."""

    kind: ClassVar[str] = "get"
    reply: ClassVar[Any] = replies.Found
    object_id: ObjectId


class Named(Request):
    """Have the id of the object that has a name."""

    kind: ClassVar[str] = "named"
    reply: ClassVar[Any] = ObjectId
    name: ObjectName


class Hold(Request):
    """Hold an object; the reply says where its allocations have moved."""

    kind: ClassVar[str] = "hold"
    reply: ClassVar[Any] = Moves
    object_id: ObjectId


class Release(Request):
    """End holds; an id stands once for each hold."""

    kind: ClassVar[str] = "release"
    object_ids: list[ObjectId]


class Segments(Request):
    """Get the descriptors of segments, which go with the reply."""

    kind: ClassVar[str] = "segments"
    reply: ClassVar[Any] = list[replies.SentSegment]
    segment_ids: Annotated[list[SegmentId], Meta(max_length=MAX_DESCRIPTORS)]


class Delete(Request):
    """Delete objects."""

    kind: ClassVar[str] = "delete"
    object_ids: list[ObjectId]
    missing_ok: bool


class Watch(Request):
    """See `FileClient.watch`."""

    kind: ClassVar[str] = "watch"
    reply: ClassVar[Any] = list[ObjectId]
    object_ids: list[ObjectId]


class Land(Request):
    """See `FileClient.land`. landed: an object of which this connection has a hold. moved: per
    allocation, its place as the message has it, and its place here.
    """

    kind: ClassVar[str] = "land"
    reply: ClassVar[Any] = bool
    object_id: ObjectId
    landed: ObjectId
    moved: Moves
    node: OwnerId


class Elsewhere(Request):
    """See `FileClient.owned_elsewhere`."""

    kind: ClassVar[str] = "elsewhere"
    reply: ClassVar[Any] = dict[OwnerId, list[ObjectId]]


class List(Request):
    """See `Client.list`."""

    kind: ClassVar[str] = "list"
    reply: ClassVar[Any] = list[reports.ObjectInfo]


class Stats(Request):
    """See `Client.stats`."""

    kind: ClassVar[str] = "stats"
    reply: ClassVar[Any] = reports.StoreStats


class Memory(Request):
    """See `Client.memory`."""

    kind: ClassVar[str] = "memory"
    reply: ClassVar[Any] = reports.MemoryReport


class MemoryBySegment(Request):
    """See `Client.memory_by_segment`."""

    kind: ClassVar[str] = "memory_by_segment"
    reply: ClassVar[Any] = list[reports.SegmentMemory]


class Evictions(Request):
    """See `Client.evictions`."""

    kind: ClassVar[str] = "evictions"
    reply: ClassVar[Any] = list[reports.Eviction]


class CopiedTables(Request):
    """Return the newest tables that had to be copied, see `reports.CopiedTable`."""

    kind: ClassVar[str] = "copied_tables"
    reply: ClassVar[Any] = list[reports.CopiedTable]


class History(Request):
    """Have the figures over time, see `reports.Sample`; the last sample is taken now."""

    kind: ClassVar[str] = "history"
    reply: ClassVar[Any] = list[reports.Sample]


class ReadBack(Request):
    """Spilled bytes were read: how many of each file, and the seconds that took in all."""

    kind: ClassVar[str] = "read_back"
    files: list[tuple[SegmentId, Size]]
    seconds: Seconds


class SpillAhead(Request):
    """See `Client.spill_ahead`."""

    kind: ClassVar[str] = "spill_ahead"
    object_ids: list[ObjectId]


class ReadAhead(Request):
    """See `Client.read_ahead`."""

    kind: ClassVar[str] = "read_ahead"
    object_ids: list[ObjectId]


class Evicted(Request):
    """See `Client.record_rollback`."""

    kind: ClassVar[str] = "evicted"
    name: Name
    nbytes: Size
    expected: Seconds
    seconds: Seconds


class Count(Request):
    """See `Client.count_sandbox` and `Client.count_transfer`."""

    kind: ClassVar[str] = "count"
    group: Literal["sandbox", "transfers"]
    increments: dict[Annotated[str, Meta(max_length=64)], Counter]


class Shutdown(Request):
    """End the store."""

    kind: ClassVar[str] = "shutdown"


class CacheOpen(Request):
    """See `DecodeCache.open`."""

    kind: ClassVar[str] = "cache_open"
    reply: ClassVar[Any] = replies.CacheOpened
    token: bytes
    file: bytes
    path: Name
    wanted: list[Wanted]
    most: Annotated[int, Meta(ge=1, le=1 << 31)]


class Column(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A decoded column. layout: distinct (part, number of its chunks), in the object's order."""

    unit: Unit
    layout: Layout
    seconds: Seconds
    object_id: ObjectId
    own: bytes
    foreign: Allocations
    message: bytes
    counters: Counters

    def __post_init__(self) -> None:
        _check_packed(self)
        if len({part for part, _ in self.layout}) < len(self.layout):
            raise ValueError("the parts of a layout are distinct")


class CachePublish(Request):
    """See `DecodeCache.publish`."""

    kind: ClassVar[str] = "cache_publish"
    reply: ClassVar[Any] = list[bool]
    token: bytes
    file: bytes
    path: Name
    columns: list[Column]
    sealed: Sealed = msgspec.field(default_factory=list)

    @property
    def descriptors(self) -> int:
        return len(self.sealed)


class CacheFail(Request):
    """See `DecodeCache.fail`. error: its class's name, its text."""

    kind: ClassVar[str] = "cache_fail"
    token: bytes
    file: bytes
    failed: list[Wanted]
    error: tuple[str, str]


class CacheRelease(Request):
    """See `DecodeCache.release`."""

    kind: ClassVar[str] = "cache_release"
    token: bytes


class CacheList(Request):
    """See `DecodeCache.entries`."""

    kind: ClassVar[str] = "cache_list"
    reply: ClassVar[Any] = list[reports.CacheEntry]


class CacheDrop(Request):
    """See `DecodeCache.drop`."""

    kind: ClassVar[str] = "cache_drop"
    reply: ClassVar[Any] = int
    path: Name | None


def _check_packed(publication: Put | Column) -> None:
    if any(len(packed) % 16 for packed in (publication.own, *(p for _, p in publication.foreign))):
        raise ValueError("allocations are pairs of 8 bytes each")


_schema: Schema[Request] = Schema(Request.__subclasses__())
_replies = {each.kind: msgspec.msgpack.Decoder(each.reply) for each in Request.__subclasses__()}

REQUESTS = _schema.types
"""All requests, by kind."""

Report = Literal[
    "stats",
    "list",
    "memory",
    "memory_by_segment",
    "evictions",
    "cache_list",
    "copied_tables",
    "history",
]
"""Requests without fields, whose replies are reports."""

decode = _schema.decode


def decode_reply(request: Request, body: msgspec.Raw) -> Any:
    """Return the reply to a request, which is of the type `request.reply`.

    Raises
    ------
    ProtocolError
        If it is malformed.
    """
    try:
        return _replies[request.kind].decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a malformed reply to {request.kind!r}: {error}") from None


def check(request: Request) -> None:
    """Raise TypeError or ValueError for a request that the store would refuse as malformed."""
    try:
        plain = msgspec.to_builtins(request, builtin_types=(bytes,))
        msgspec.convert(plain, type(request), builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        kind = TypeError if ", got `" in str(error) else ValueError
        raise kind(f"a malformed {request.kind!r}: {error}") from None
