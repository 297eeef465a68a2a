"""What a node store tells processes unasked. There is no answer.

Each notice is an array of its fields, checked where it arrives.
"""

from typing import ClassVar

from zerrow_store.protocol.fields import ObjectId, Seconds, SegmentId, Size
from zerrow_store.protocol.messages import Carrier
from zerrow_store.protocol.schema import Message, Schema


class Notice(Message):
    """What the store tells a process unasked."""


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


_schema: Schema[Notice] = Schema(Notice.__subclasses__())

NOTICES = _schema.types
"""All notices, by kind."""

decode = _schema.decode
