"""Travelling: which objects of a store a pickled value refers to, read without unpickling it.

The pickled stream of such a value begins with a constant, which unpickling drops again, with the
ids and allocations of the objects. So their bytes can be fetched as soon as the message is on a
node, before anybody reads the value.
"""

import struct

import msgspec

_PROTOCOL = b"\x80\x05"
_BYTES, _POP = b"B", b"0"
_LENGTH = struct.Struct("<I")
_MARK = b"zerrow"
_START = len(_PROTOCOL) + len(_BYTES) + _LENGTH.size

Allocation = tuple[bytes, int, int]
"""Segment, offset, size, as in a SIPC message."""


class Travelling(msgspec.Struct, array_like=True, frozen=True):
    """The objects that a value refers to. node_id: the node whose store has them, in hexadecimal.
    objects: the allocations of each, by its id.
    """

    node_id: str
    objects: dict[bytes, list[Allocation]]


_decoder = msgspec.msgpack.Decoder(Travelling)


def with_travelling(stream: bytes, travelling: Travelling) -> bytes:
    """Return a stream of pickle's protocol 5 that says what it refers to."""
    said = _MARK + msgspec.msgpack.encode(travelling)
    start = b"".join((_PROTOCOL, _BYTES, _LENGTH.pack(len(said)), said, _POP))
    return start + stream.removeprefix(_PROTOCOL)


def travelling_in(stream: memoryview) -> Travelling | None:
    """Return what a pickled stream says that it refers to; None if it says nothing, or says it as
    another version does.
    """
    start = bytes(stream[: _START + len(_MARK)])
    if not (start.startswith(_PROTOCOL + _BYTES) and start.endswith(_MARK)):
        return None
    (length,) = _LENGTH.unpack(start[_START - _LENGTH.size : _START])
    try:
        return _decoder.decode(stream[_START + len(_MARK) : _START + length])
    except msgspec.DecodeError:
        return None
