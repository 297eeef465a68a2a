"""A sandbox's result as bytes that can be read without running anything in them.

Unpickling what a sandbox wrote would run its code in the host; so a result is msgpack of plain
values, with Arrow data beside it as SIPC messages. Read here with the sandbox in mind: sizes are
bounded before anything is built, and what is malformed is a ProtocolError.

A result frame: the number of messages, the length of the values and of each message (uint32, little
endian), the values, the messages.
"""

import datetime
import decimal
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import pyarrow as pa

from zerrow_store.errors import ProtocolError

LONGEST_VALUES = 4 << 20
"""Plain values take up to some 60 times as much memory once they are objects."""

LONGEST_FRAME = 128 << 20
MOST_MESSAGES = 10_000
ARROW_DATA = (pa.Table, pa.RecordBatch, pa.ChunkedArray, pa.Array)
ALLOWED = (
    "None, bool, int, float, complex, str, bytes, bytearray, datetime, date, time, timedelta, "
    "Decimal, list, tuple, set, frozenset, dict and pyarrow's Table, RecordBatch, ChunkedArray, "
    "Array"
)

_ARROW = 0
_UINT32 = struct.Struct("<I")


def _pairs_to_dict(pairs: Any) -> dict[Any, Any]:
    return {key: value for key, value in pairs}  # noqa: C416  (each has to be a pair)


def _time_from(text: str) -> datetime.time:
    return datetime.time.fromisoformat(text)


# By exact type: what a subclass adds would be lost.
_KINDS: dict[type, tuple[int, Callable[[Any], Any], Callable[[Any], Any]]] = {
    tuple: (1, list, tuple),
    set: (2, list, set),
    frozenset: (3, list, frozenset),
    int: (4, hex, lambda text: int(text, 16)),  # beyond 64 bits
    complex: (5, lambda c: [c.real, c.imag], lambda parts: complex(*parts)),
    bytearray: (6, bytes, bytearray),
    datetime.datetime: (
        7,
        lambda d: [d.replace(tzinfo=None).isoformat(), d.fold, _offset(d)],
        lambda parts: _datetime_from(*parts),
    ),
    datetime.date: (8, datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: (9, datetime.time.isoformat, _time_from),
    datetime.timedelta: (
        10,
        lambda d: [d.days, d.seconds, d.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
    decimal.Decimal: (11, str, decimal.Decimal),
    dict: (12, lambda d: [list(pair) for pair in d.items()], _pairs_to_dict),
}
_READERS = {code: read for code, _, read in _KINDS.values()}


def _offset(value: datetime.datetime) -> float | None:
    offset = value.utcoffset()
    return None if offset is None else offset.total_seconds()


def _datetime_from(text: str, fold: int, offset: float | None) -> datetime.datetime:
    zone = None
    if offset is not None:
        zone = datetime.timezone(datetime.timedelta(seconds=offset))
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def pack(value: Any, encode_arrow: Callable[[Any], bytes]) -> bytes:
    """Return a result frame. Raises TypeError for what a sandbox cannot return, ValueError for
    what is too large."""
    messages: list[bytes] = []

    def default(part: Any) -> msgpack.ExtType:
        if isinstance(part, ARROW_DATA):
            messages.append(encode_arrow(part))
            return msgpack.ExtType(_ARROW, _UINT32.pack(len(messages) - 1))
        if isinstance(part, _Extension):
            return msgpack.ExtType(part.code, packed(part.inner))
        kind = _KINDS.get(type(part))
        if kind is None:
            raise TypeError(
                f"a sandbox cannot return {type(part).__module__}.{type(part).__qualname__}, "
                f"only {ALLOWED}"
            )
        return msgpack.ExtType(kind[0], packed(kind[1](part)))

    def packed(part: Any) -> bytes:
        encoded: bytes = msgpack.packb(
            _without_dicts(part), default=default, strict_types=True, unicode_errors="surrogatepass"
        )
        return encoded

    try:
        values = packed(value)
    except OverflowError as error:
        raise ValueError(f"a sandbox cannot return this value: {error}") from error
    if len(values) > LONGEST_VALUES:
        raise ValueError(
            f"a sandbox may return {LONGEST_VALUES:,} bytes of plain values, not {len(values):,}: "
            "return them as Arrow data"
        )
    lengths = [len(messages), len(values), *map(len, messages)]
    frame = b"".join([struct.pack(f"<{len(lengths)}I", *lengths), values, *messages])
    if len(messages) > MOST_MESSAGES or len(frame) > LONGEST_FRAME:
        raise ValueError(f"a sandbox may return {MOST_MESSAGES:,} Arrow values: combine them")
    return frame


def _without_dicts(part: Any) -> Any:
    """Replace what msgpack has its own, narrower way for: dicts, large integers, bytearrays."""
    if type(part) is dict:
        pairs = _KINDS[dict][1](part)
        return _Extension(12, pairs)
    if type(part) is bytearray:
        return _Extension(6, bytes(part))
    if type(part) is list:
        return [_without_dicts(each) for each in part]
    if type(part) is int and not -(1 << 63) <= part < 1 << 64:
        return _Extension(4, hex(part))
    return part


class _Extension:
    """A part that msgpack would have packed in its own way."""

    def __init__(self, code: int, inner: Any) -> None:
        self.code = code
        self.inner = inner


def split(frame: bytes) -> tuple[bytes, list[bytes]]:
    """Return the values and the messages of a frame. Raises ProtocolError."""
    if len(frame) < 2 * _UINT32.size:
        raise ProtocolError("a result is too short")
    count, length = struct.unpack_from("<2I", frame)
    if count > MOST_MESSAGES or length > LONGEST_VALUES:
        raise ProtocolError("a result has more messages or values than are allowed")
    if len(frame) < (2 + count) * _UINT32.size:
        raise ProtocolError("a result is cut off")
    lengths = [length, *struct.unpack_from(f"<{count}I", frame, 2 * _UINT32.size)]
    start = (2 + count) * _UINT32.size
    if start + sum(lengths) != len(frame):
        raise ProtocolError("a result's parts do not make up the whole")
    parts = []
    for size in lengths:
        parts.append(frame[start : start + size])
        start += size
    return parts[0], parts[1:]


def unpack(values: bytes, arrow: Sequence[Any]) -> Any:
    """Return the value, with the Arrow data of its messages in place. Raises ProtocolError."""

    def hook(code: int, data: bytes) -> Any:
        if code == _ARROW:
            (index,) = _UINT32.unpack(data)
            return arrow[index]
        return _READERS[code](inner(data))

    def inner(data: bytes) -> Any:
        return msgpack.unpackb(data, ext_hook=hook, unicode_errors="surrogatepass")

    try:
        return inner(values)
    except (Exception, RecursionError) as error:
        raise ProtocolError(f"a result is malformed: {error!r}") from error
