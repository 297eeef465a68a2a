"""The notices of a node store, which it sends unasked. There is no reply.

Each notice is an array of its fields, checked where it arrives.
"""

from typing import ClassVar

from zerrow_store.protocol.fields import ObjectId, Seconds, SegmentId, Size
from zerrow_store.protocol.messages import Carrier
from zerrow_store.protocol.schema import Message, Schema


class Notice(Message):
    """A message that nobody has asked for."""


class Freed(Notice):
    """No object refers any more to the allocations at these offsets of the process's arena.

    offsets: packed little-endian uint64.
    """

    kind: ClassVar[str] = "freed"
    offsets: bytes


class SegmentGone(Notice):
    """A segment is not in the store any more."""

    kind: ClassVar[str] = "segment_gone"
    segment_id: SegmentId


class Unpublished(Notice):
    """The bytes that the process may have beside objects: in use, or freed and kept warm."""

    kind: ClassVar[str] = "unpublished"
    bound: Size


class HoldBack(Notice):
    """Memory is short: large allocations wait for these seconds, or until the next such notice."""

    kind: ClassVar[str] = "hold_back"
    seconds: Seconds


class ItemStored(Notice):
    """A reference of this process, a stream's item, carries an object: delete it with that."""

    kind: ClassVar[str] = "item_stored"
    object_id: ObjectId
    reference: bytes


class Whose(Notice):
    """Does the process own the reference that carries an object? The answer is a `Claim`."""

    kind: ClassVar[str] = "whose"
    object_id: ObjectId
    reference: bytes


class WhoseElsewhere(Notice):
    """To the transfer agent: does a process of another machine own the reference that carries an
    object? The answer is a `Claim`.
    """

    kind: ClassVar[str] = "whose_elsewhere"
    object_id: ObjectId
    carrier: Carrier


class Removed(Notice):
    """To the transfer agent: an object or proxy that other machines know of has gone."""

    kind: ClassVar[str] = "removed"
    object_id: ObjectId


_schema: Schema[Notice] = Schema(Notice.__subclasses__())

decode = _schema.decode
