"""The replies that have several values; `messages` says which request has which reply.

Each is an array of its fields, checked where it arrives. Figures travel as the reports that they
are, see `reports`.
"""

import msgspec

from zerrow_store.protocol.fields import (
    Allocations,
    Checksums,
    Layout,
    Moves,
    Number,
    ObjectId,
    OwnerId,
    Size,
)


class Reply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A reply of several values."""


class Greeting(Reply):
    """The store's answer to `Hello`. epoch: what its object table is known by."""

    version: int
    pid: Size
    epoch: bytes


class Found(Reply):
    """An object that the caller holds now.

    moves: where allocations lie that the message has elsewhere. node: the machine whose store says
    when the object goes; empty: this one.
    """

    message: bytes | None
    allocations: Allocations
    moves: Moves
    node: OwnerId


class SentSegment(Reply):
    """A segment whose descriptor goes with the reply. checksums: only of a file on disk."""

    size: Size
    checksums: Checksums


class Hit(Reply):
    """Decoded parts of the wanted unit `index`, in an object that the caller holds now.

    layout: of the object. parts: those that were wanted.
    """

    index: Number
    object_id: ObjectId
    message: bytes
    layout: Layout
    parts: list[Number]
    moves: Moves


class CacheOpened(Reply):
    """What a read gets of a file.

    granted: (index, parts) that are the caller's to decode. later: (index, parts, pid) to ask for
    again, which process pid decodes, or (pid 0) nobody as yet.
    """

    hits: list[Hit]
    granted: list[tuple[Number, list[Number]]]
    later: list[tuple[Number, list[Number], Number]]
