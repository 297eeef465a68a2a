"""The requests to a node store, and its notices: every kind, with its fields and what these may be.

Each is an array of its fields. It is decoded here, before any handler sees it: a number is finite
and within bounds, a list has what it should have, nothing is missing or left over. A request that
is malformed raises ProtocolError, which is the answer. One whose id is 0 has no answer, as notices
have none.
"""

from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol.fields import (
    Adopted,
    Allocations,
    Counter,
    Counters,
    Layout,
    Moves,
    Name,
    ObjectId,
    OwnerId,
    Seconds,
    SegmentId,
    Size,
    Unit,
    Wanted,
)
from zerrow_store.protocol.framing import MAX_DESCRIPTORS


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What all have: their kind, and how many descriptors go with them."""

    kind: ClassVar[str]

    @property
    def descriptors(self) -> int:
        """How many descriptors go with it."""
        return 0


class Hello(Request):
    """The first request of a connection. An observer asks for figures.

    identity: what a supervisor is known by, or a client, when it connects again; a client without
    one has lost all when its connection ends.
    """

    kind: ClassVar[str] = "hello"
    version: int
    role: Literal["client", "supervisor", "agent", "observer"]
    identity: Annotated[bytes, Meta(max_length=64)] = b""


class Returned(Request):
    """A client that has connected, or connected again, holds now all that it holds."""

    kind: ClassVar[str] = "returned"


class Goodbye(Request):
    """A client reads nothing any more, and ends its connection."""

    kind: ClassVar[str] = "goodbye"


class TakeOver(Request):
    """A supervisor has been given everything: from now on it supervises."""

    kind: ClassVar[str] = "take_over"


class Attach(Request):
    """The process's arena. shared: other stores refer to it, too. owner_id: what the process is
    known by, if it may own what others publish.
    """

    kind: ClassVar[str] = "attach"
    segment_id: SegmentId
    size: Size
    shared: bool = False
    owner_id: OwnerId = b""

    @property
    def descriptors(self) -> int:
        return 1


class Carrier(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What carries an object that belongs to another process: a reference that is counted there.

    owner_id: of that process, node: of its machine; empty if they are not known. group: references
    of one group most often have owners on the same machine.
    """

    reference: Annotated[bytes, Meta(min_length=1, max_length=64)]
    owner_id: OwnerId = b""
    node: OwnerId = b""
    group: OwnerId = b""


class Put(Request):
    """An object. own: its allocations in the process's arena, packed like those of `foreign`.

    owned: it belongs to the process that publishes it. carrier: it belongs to another one.
    """

    kind: ClassVar[str] = "put"
    object_id: ObjectId
    own: bytes
    foreign: Allocations
    message: bytes | None
    transient: bool
    owned: bool
    counters: Counters
    adopted: Adopted = []
    carrier: Carrier | None = None

    def __post_init__(self) -> None:
        _check_packed(self)

    @property
    def descriptors(self) -> int:
        return len(self.adopted)


class Claim(Request):
    """The answer to `whose`: whether the process owns what carries the object. node: of a transfer
    agent, which answers for other machines: on which of them somebody does.
    """

    kind: ClassVar[str] = "claim"
    object_id: ObjectId
    mine: bool
    node: OwnerId = b""


class Get(Request):
    """Hold an object, and have its message."""

    kind: ClassVar[str] = "get"
    object_id: ObjectId


class Hold(Request):
    """Hold an object."""

    kind: ClassVar[str] = "hold"
    object_id: ObjectId


class Release(Request):
    """Hold objects no longer; an id stands once for each hold."""

    kind: ClassVar[str] = "release"
    object_ids: list[ObjectId]


class Segments(Request):
    """Have the descriptors of segments."""

    kind: ClassVar[str] = "segments"
    segment_ids: Annotated[list[SegmentId], Meta(max_length=MAX_DESCRIPTORS)]


class Delete(Request):
    """Delete objects."""

    kind: ClassVar[str] = "delete"
    object_ids: list[ObjectId]
    missing_ok: bool


class Watch(Request):
    """See `FileClient.watch`."""

    kind: ClassVar[str] = "watch"
    object_ids: list[ObjectId]


class Land(Request):
    """See `FileClient.land`. landed: an object of which this connection has a hold. moved: per
    allocation, its place as the message has it, and its place here.
    """

    kind: ClassVar[str] = "land"
    object_id: ObjectId
    landed: ObjectId
    moved: Moves
    node: OwnerId


class Elsewhere(Request):
    """See `FileClient.owned_elsewhere`."""

    kind: ClassVar[str] = "elsewhere"


class List(Request):
    """See `Client.list`."""

    kind: ClassVar[str] = "list"


class Stats(Request):
    """See `Client.stats`."""

    kind: ClassVar[str] = "stats"


class Memory(Request):
    """See `Client.memory`."""

    kind: ClassVar[str] = "memory"


class MemoryBySegment(Request):
    """See `Client.memory_by_segment`."""

    kind: ClassVar[str] = "memory_by_segment"


class Evictions(Request):
    """See `Client.evictions`."""

    kind: ClassVar[str] = "evictions"


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
    """See `CacheCalls.cache_open`."""

    kind: ClassVar[str] = "cache_open"
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
    """See `CacheCalls.cache_publish`."""

    kind: ClassVar[str] = "cache_publish"
    token: bytes
    file: bytes
    path: Name
    columns: list[Column]
    adopted: Adopted = []

    @property
    def descriptors(self) -> int:
        return len(self.adopted)


class CacheFail(Request):
    """See `CacheCalls.cache_fail`. error: its class's name, its text."""

    kind: ClassVar[str] = "cache_fail"
    token: bytes
    file: bytes
    failed: list[Wanted]
    error: tuple[str, str]


class CacheRelease(Request):
    """See `CacheCalls.cache_release`."""

    kind: ClassVar[str] = "cache_release"
    token: bytes


class CacheList(Request):
    """See `CacheCalls.cache_list`."""

    kind: ClassVar[str] = "cache_list"


class CacheDrop(Request):
    """See `CacheCalls.cache_drop`."""

    kind: ClassVar[str] = "cache_drop"
    path: Name | None


class Notice(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What the store tells a process unasked."""

    kind: ClassVar[str]


class Freed(Notice):
    """Nothing refers any more to what lies at these offsets of the process's arena: packed
    little-endian uint64.
    """

    kind: ClassVar[str] = "freed"
    offsets: bytes


class SegmentGone(Notice):
    """A segment is not in the store any more."""

    kind: ClassVar[str] = "segment_gone"
    segment_id: SegmentId


class Unpublished(Notice):
    """So many bytes the process may have beside objects: in use, or freed and kept warm."""

    kind: ClassVar[str] = "unpublished"
    bound: Size


class HoldBack(Notice):
    """Large allocations are to wait so long, or until the next one of these: memory is short."""

    kind: ClassVar[str] = "hold_back"
    seconds: Seconds


class Adopt(Notice):
    """An item of a stream of this process carries an object, which is to go with it."""

    kind: ClassVar[str] = "adopt"
    object_id: ObjectId
    reference: bytes


class Whose(Notice):
    """Does the process own the reference that carries an object? The answer is a `Claim`."""

    kind: ClassVar[str] = "whose"
    object_id: ObjectId
    reference: bytes


class WhoseElsewhere(Notice):
    """To the transfer agent: does a process of another machine own it? The answer is a `Claim`."""

    kind: ClassVar[str] = "whose_elsewhere"
    object_id: ObjectId
    carrier: Carrier


class Removed(Notice):
    """To the transfer agent: an object, or a proxy, that concerns other machines has gone."""

    kind: ClassVar[str] = "removed"
    object_id: ObjectId


def _check_packed(publication: Put | Column) -> None:
    if any(len(packed) % 16 for packed in (publication.own, *(p for _, p in publication.foreign))):
        raise ValueError("allocations are pairs of 8 bytes each")


REQUESTS: dict[str, type[Request]] = {each.kind: each for each in Request.__subclasses__()}
"""All requests, by kind."""

NOTICES: dict[str, type[Notice]] = {each.kind: each for each in Notice.__subclasses__()}
"""All notices, by kind."""

_requests = {kind: msgspec.msgpack.Decoder(each) for kind, each in REQUESTS.items()}
_notices = {kind: msgspec.msgpack.Decoder(each) for kind, each in NOTICES.items()}

M = TypeVar("M", Request, Notice)


def decode(kind: str, body: msgspec.Raw) -> Request:
    """Return a request. Raises ProtocolError for one that is unknown or malformed."""
    return _decode(_requests, kind, body)


def decode_notice(kind: str, body: msgspec.Raw) -> Notice:
    """Return a notice. Raises ProtocolError for one that is unknown or malformed."""
    return _decode(_notices, kind, body)


def _decode(decoders: "dict[str, msgspec.msgpack.Decoder[M]]", kind: str, body: msgspec.Raw) -> M:
    if kind not in decoders:
        raise ProtocolError(f"nobody knows of {kind!r}")
    try:
        return decoders[kind].decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a malformed {kind!r}: {error}") from None


def check(request: Request) -> None:
    """Raise TypeError or ValueError for a request that the store would refuse as malformed."""
    try:
        plain = msgspec.to_builtins(request, builtin_types=(bytes,))
        msgspec.convert(plain, type(request), builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        kind = TypeError if ", got `" in str(error) else ValueError
        raise kind(f"a malformed {request.kind!r}: {error}") from None
