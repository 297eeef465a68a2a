"""Packing of a sandbox's result, so that reading it runs no code.

Unpickling a sandbox's result would run the sandbox's code in the host. So a result is msgpack of
plain values, and Arrow data stands beside it as SIPC messages. `unpack` is written for a hostile
sandbox: a malformed value is a ProtocolError.
"""

import datetime
import decimal
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.errors import ProtocolError
from zerrow_store.sandbox.messages import LONGEST_RESULT, LONGEST_VALUES, MOST_MESSAGES

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


def pack(value: Any, encode_arrow: Callable[[Any], bytes]) -> tuple[bytes, list[bytes]]:
    """Return the packed plain values of a result, and the messages of the Arrow data in it.

    Raises
    ------
    TypeError
        A sandbox cannot return a value of this type.
    ValueError
        The result is too large.
    """
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
    if len(messages) > MOST_MESSAGES or len(values) + sum(map(len, messages)) > LONGEST_RESULT:
        raise ValueError(f"a sandbox may return {MOST_MESSAGES:,} Arrow values: combine them")
    return values, messages


def _without_dicts(part: Any) -> Any:
    """Replace the types that msgpack packs with less than all values, or as another type."""
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
    """A part that is packed as an extension type, although msgpack has a type for it."""

    def __init__(self, code: int, inner: Any) -> None:
        self.code = code
        self.inner = inner


def unpack(values: bytes, arrow: Sequence[Any]) -> Any:
    """Return the value that was packed, with `arrow` in the places of its Arrow data.

    Raises
    ------
    ProtocolError
        The values are malformed.
    """

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
