"""The events that replicate the object table.

A server sends them to its supervisors, and a supervisor to the server that it starts. An *event* is
one change of the object table. A *snapshot* is a sequence of events that makes an equal object
table out of an empty one; it begins with `TableBegun`. The other messages of such a stream, the
*marks*, say where the receiver is in it.

Each message is an array of its fields, checked where it arrives: an object table is made of checked
events alone. There are no replies. Client and server compare their protocol versions in `Hello`; a
server that is being started compares that of its supervisor in `TableBegun`.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from zerrow_store.protocol.fields import (
    Allocations,
    Checksums,
    Counters,
    Layout,
    Moves,
    Name,
    ObjectId,
    ObjectName,
    OwnerId,
    Seconds,
    SegmentId,
    Size,
    Unit,
)
from zerrow_store.protocol.framing import PROTOCOL_VERSION
from zerrow_store.protocol.places import NO_PROCESS
from zerrow_store.protocol.schema import Message, Schema

_Identity = Annotated[bytes, Meta(max_length=64)]


class Event(Message):
    """A change of the object table."""

    descriptors: ClassVar[int] = 0
    """How many descriptors go with it."""


class TableBegun(Event):
    """An object table begins, known by its epoch. Raises ValueError for another version's."""

    kind: ClassVar[str] = "table_begun"
    epoch: Annotated[bytes, Meta(max_length=64)]
    version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if self.version != PROTOCOL_VERSION:
            raise ValueError(
                f"the object table has protocol version {self.version}, "
                f"this server {PROTOCOL_VERSION}"
            )


class ReaderAdded(Event):
    """A client has a name, by which it is known when it connects again, and a process."""

    kind: ClassVar[str] = "reader_added"
    identity: _Identity
    pid: Size
    started: Size


class ReaderRemoved(Event):
    """A client has said goodbye, or its process has ended."""

    kind: ClassVar[str] = "reader_removed"
    identity: _Identity


class SegmentAdded(Event):
    """There is a segment; its descriptor goes with this. started: see `processes.start_time`."""

    kind: ClassVar[str] = "segment_added"
    descriptors: ClassVar[int] = 1
    segment_id: SegmentId
    size: Size
    pid: Size
    started: Size


class SegmentShared(Event):
    """Objects of other stores lie in the segment, too."""

    kind: ClassVar[str] = "segment_shared"
    segment_id: SegmentId


class SegmentOnDisk(Event):
    """The segment is a file of spilled bytes, with these checksums."""

    kind: ClassVar[str] = "segment_on_disk"
    segment_id: SegmentId
    checksums: Checksums


class SegmentRemoved(Event):
    """There is no such segment any more."""

    kind: ClassVar[str] = "segment_removed"
    segment_id: SegmentId


class ObjectAdded(Event):
    """There is an object. See `object_table.Object` for the fields. counters: what it adds.

    The object that has the name is hidden with this: a crash leaves one of them, and no other.
    """

    kind: ClassVar[str] = "object_added"
    object_id: ObjectId
    allocations: Allocations
    message: bytes | None
    transient: bool
    owner: SegmentId | None
    counters: Counters
    created: float
    carrier: bytes | None = None
    node: OwnerId | None = None
    proxy: bool = False
    reference: bytes | None = None
    pid: Size = NO_PROCESS
    name: ObjectName | None = None


class ObjectsCarried(Event):
    """Objects are carried by this reference."""

    kind: ClassVar[str] = "objects_carried"
    object_ids: list[ObjectId]
    reference: bytes


class ColumnAdded(Event):
    """There is an object that is a decoded column. See `decode_cache_index.Entry`."""

    kind: ClassVar[str] = "column_added"
    added: ObjectAdded
    file: bytes
    path: Name
    unit: Unit
    layout: Layout
    seconds: Seconds
    hits: Size
    used: float


class ColumnsRead(Event):
    """Decoded columns were read at this time."""

    kind: ClassVar[str] = "columns_read"
    object_ids: list[ObjectId]
    when: float


class ObjectHidden(Event):
    """An object was deleted; it stays until its last hold ends."""

    kind: ClassVar[str] = "object_hidden"
    object_id: ObjectId


class ObjectRemoved(Event):
    """There is no such object any more."""

    kind: ClassVar[str] = "object_removed"
    object_id: ObjectId


class CopyAdded(Event):
    """The bytes of another machine's object are here, too. node: the machine whose store says when
    it goes.
    """

    kind: ClassVar[str] = "copy_added"
    object_id: ObjectId
    allocations: Allocations
    moves: Moves
    node: OwnerId | None
    created: float


class CopyRemoved(Event):
    """This machine's copy of another machine's object was dropped; its proxy remains."""

    kind: ClassVar[str] = "copy_removed"
    object_id: ObjectId


class AllocationsSpilled(Event):
    """Allocations of a segment were spilled: these objects refer to the file now. offsets: the new
    ones by the old ones.
    """

    kind: ClassVar[str] = "allocations_spilled"
    object_ids: list[ObjectId]
    segment_id: SegmentId
    offsets: dict[Size, Size]
    file_id: SegmentId


class MovesKnown(Event):
    """Where allocations that an object's message names lie now."""

    kind: ClassVar[str] = "moves_known"
    object_id: ObjectId
    moves: Moves


class Counted(Event):
    """What the running counts go up by."""

    kind: ClassVar[str] = "counted"
    counters: Counters


class Mark(Message):
    """What the receiver of a stream of events has to know of the stream."""

    descriptors: ClassVar[int] = 0


class Restored(Mark):
    """A supervisor, known by its identity, has sent a new server all there is. With it goes the
    page of `ChangeCount`.
    """

    kind: ClassVar[str] = "restored"
    descriptors: ClassVar[int] = 1
    identity: _Identity


class Following(Mark):
    """A server has sent a supervisor all there is, up to this change. With it go the listening
    socket and the page of `ChangeCount`.
    """

    kind: ClassVar[str] = "following"
    descriptors: ClassVar[int] = 2
    changes: Annotated[int, Meta(ge=0)]


class Stopping(Mark):
    """The store's end is meant, or the supervisor is needed no more."""

    kind: ClassVar[str] = "stopping"


_types: list[type[Event | Mark]] = [*Event.__subclasses__(), *Mark.__subclasses__()]
_schema = Schema(_types)

STREAM = _schema.types
"""All events and marks, by kind."""

decode = _schema.decode
