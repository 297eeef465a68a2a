"""Hypothesis strategies for Arrow data of every type: nested, sliced, chunked, empty, with nulls.

Every array is built through pyarrow's own constructors. `arrays` draws a type first, so
that a failing example shrinks to a small type.
"""

import datetime
import decimal
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

MAX_LENGTH = 6


class PointType(pa.ExtensionType):  # type: ignore[misc]
    """An extension type that pyarrow knows only while it is registered."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.float64(), 2), "zerrow.test.point")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"point"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "PointType":
        return cls()


_DECIMALS = [pa.decimal32(7, 2), pa.decimal64(15, 3), pa.decimal128(30, 4), pa.decimal256(60, 5)]
_UNITS = ["s", "ms", "us", "ns"]

_FLAT = [
    pa.null(),
    pa.bool_(),
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64()),
    *_DECIMALS,
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit) for unit in _UNITS),
    *(pa.timestamp("us", tz) for tz in ("UTC", "Europe/Rome")),
    *(pa.duration(unit) for unit in _UNITS),
    pa.month_day_nano_interval(),
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)),
    *(pa.uuid(), pa.json_(), pa.bool8(), pa.opaque(pa.int32(), "kind", "vendor")),
    pa.fixed_shape_tensor(pa.int16(), (2, 2)),
]


def flat_types() -> st.SearchStrategy[pa.DataType]:
    return st.sampled_from(_FLAT) | st.builds(PointType)


def _may_be_dictionary(values: pa.DataType) -> bool:
    # Arrow's schema message describes a dictionary by the field of its values: no place is left
    # for values that are dictionaries or extensions. They do not survive Arrow's IPC.
    return not isinstance(values, pa.BaseExtensionType | pa.DictionaryType)


_NESTED = [
    *("list", "large_list", "list_view", "large_list_view", "fixed_size_list", "map"),
    *("struct", "sparse_union", "dense_union", "dictionary", "run_end_encoded"),
]


@st.composite
def types(draw: st.DrawFn, depth: int = 3) -> pa.DataType:
    """Any type, nested up to `depth` deep."""
    if depth == 0 or draw(st.booleans()):
        return draw(flat_types())
    name = draw(st.sampled_from(_NESTED))
    inner = types(depth - 1)
    if name in ("struct", "sparse_union", "dense_union"):
        kinds = draw(st.lists(inner, min_size=0 if name == "struct" else 1, max_size=3))
        return getattr(pa, name)([pa.field(f"f{i}", kind) for i, kind in enumerate(kinds)])
    if name == "dictionary":
        index = draw(st.sampled_from([pa.int8(), pa.uint16(), pa.int32(), pa.int64()]))
        return pa.dictionary(index, draw(inner.filter(_may_be_dictionary)), draw(st.booleans()))
    if name == "run_end_encoded":
        ends = draw(st.sampled_from([pa.int16(), pa.int32(), pa.int64()]))
        return pa.run_end_encoded(ends, draw(inner))
    if name == "fixed_size_list":
        return pa.list_(draw(inner), draw(st.integers(1, 3)))
    if name == "map":
        return pa.map_(pa.string(), draw(inner))
    return getattr(pa, "list_" if name == "list" else name)(draw(inner))


@st.composite
def arrays_of(draw: st.DrawFn, kind: pa.DataType, length: int | None = None) -> pa.Array:
    """An array of a type; of a random length unless one is given."""
    if length is None:
        length = draw(st.integers(0, MAX_LENGTH))
    spare = draw(st.sampled_from([0, 0, 1, 5]))
    array = draw(_built(kind, length + spare))
    start = draw(st.integers(0, spare))
    return array.slice(start, length)


def _mask(length: int) -> st.SearchStrategy[pa.Array | None]:
    nulls = st.lists(st.booleans(), min_size=length, max_size=length)
    return st.none() | nulls.map(lambda values: pa.array(values, pa.bool_()))


def _indices(length: int, below: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, below - 1), min_size=length, max_size=length)


def _offsets(length: int, end: int) -> st.SearchStrategy[list[int]]:
    cuts = st.lists(st.integers(0, end), min_size=length + 1, max_size=length + 1)
    return cuts.map(sorted)


@st.composite
def _built(draw: st.DrawFn, kind: pa.DataType, length: int) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, draw(_built(kind.storage_type, length)))
    if pa.types.is_dictionary(kind):
        return draw(_dictionary(kind, length))
    if pa.types.is_run_end_encoded(kind):
        return draw(_runs(kind, length))
    if pa.types.is_union(kind):
        return draw(_union(kind, length))
    if pa.types.is_struct(kind):
        return draw(_struct(kind, length))
    if pa.types.is_fixed_size_list(kind):
        values = draw(arrays_of(kind.value_type, length * kind.list_size))
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=draw(_mask(length)))
    if pa.types.is_map(kind):
        keys = draw(arrays_of(kind.key_type).filter(lambda array: array.null_count == 0))
        items = draw(arrays_of(kind.item_type, len(keys)))
        offsets = pa.array(draw(_offsets(length, len(keys))), pa.int32())
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind)
    if pa.types.is_nested(kind):
        return draw(_list(kind, length))
    values = draw(st.lists(st.none() | scalars(kind), min_size=length, max_size=length))
    return pa.array(values, kind)


@st.composite
def _list(draw: st.DrawFn, kind: pa.DataType, length: int) -> pa.Array:
    values = draw(arrays_of(kind.value_type))
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    cls = {
        pa.lib.Type_LIST: pa.ListArray,
        pa.lib.Type_LARGE_LIST: pa.LargeListArray,
        pa.lib.Type_LIST_VIEW: pa.ListViewArray,
        pa.lib.Type_LARGE_LIST_VIEW: pa.LargeListViewArray,
    }[kind.id]
    cuts = draw(_offsets(length, len(values)))
    number = pa.int64() if large else pa.int32()
    mask = draw(_mask(length))
    if kind.id in (pa.lib.Type_LIST, pa.lib.Type_LARGE_LIST):
        return cls.from_arrays(pa.array(cuts, number), values, type=kind, mask=mask)
    sizes = [after - before for before, after in itertools.pairwise(cuts)]
    starts = pa.array(cuts[:-1], number)
    return cls.from_arrays(starts, pa.array(sizes, number), values, type=kind, mask=mask)


@st.composite
def _dictionary(draw: st.DrawFn, kind: pa.DataType, length: int) -> pa.Array:
    values = draw(arrays_of(kind.value_type, draw(st.integers(1, 5))))
    drawn = draw(_indices(length, len(values)))
    mask = draw(_mask(length))
    indices = pa.array(
        [None if mask is not None and mask[i].as_py() else n for i, n in enumerate(drawn)],
        kind.index_type,
    )
    return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)


@st.composite
def _runs(draw: st.DrawFn, kind: pa.DataType, length: int) -> pa.Array:
    ends = sorted(draw(st.sets(st.integers(1, length), max_size=4)) | {length}) if length else []
    values = draw(arrays_of(kind.value_type, len(ends)))
    return pa.RunEndEncodedArray.from_arrays(pa.array(ends, kind.run_end_type), values, kind)


@st.composite
def _union(draw: st.DrawFn, kind: pa.DataType, length: int) -> pa.Array:
    fields = [kind.field(i) for i in range(kind.num_fields)]
    names = [field.name for field in fields]
    codes = pa.array(draw(_indices(length, len(fields))), pa.int8())
    if kind.mode == "sparse":
        children = [draw(arrays_of(field.type, length)) for field in fields]
        return pa.UnionArray.from_sparse(codes, children, names)
    children = [draw(arrays_of(field.type, draw(st.integers(1, 4)))) for field in fields]
    taken = [0] * len(fields)
    offsets = []
    for code in codes.to_pylist():
        offsets.append(min(taken[code], len(children[code]) - 1))
        taken[code] += 1
    return pa.UnionArray.from_dense(codes, pa.array(offsets, pa.int32()), children, names)


@st.composite
def _struct(draw: st.DrawFn, kind: pa.DataType, length: int) -> pa.Array:
    fields = [kind.field(i) for i in range(kind.num_fields)]
    if not fields:
        return pa.array([{}] * length, kind)
    children = [draw(arrays_of(field.type, length)) for field in fields]
    return pa.StructArray.from_arrays(children, fields=fields, mask=draw(_mask(length)))


def _integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low = -(1 << (bits - 1)) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


def scalars(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """A Python value of a type that is not nested."""
    if pa.types.is_null(kind):
        return st.none()
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_integer(kind):
        return _integers(kind.bit_width, pa.types.is_signed_integer(kind))
    if pa.types.is_float16(kind):
        # pyarrow up to 20 takes no others.
        return st.floats(width=16, allow_nan=False).map(np.float16)
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_nan=False)
    if pa.types.is_decimal(kind):
        return _decimals(kind)
    if pa.types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return st.text(max_size=20)
    if pa.types.is_date32(kind):
        return st.dates()
    if pa.types.is_date64(kind):
        return st.dates().map(lambda day: datetime.datetime.combine(day, datetime.time()))
    if pa.types.is_temporal(kind):
        return _temporal(kind)
    return st.binary(max_size=20)


def _decimals(kind: pa.DataType) -> st.SearchStrategy[decimal.Decimal]:
    limit = 10**kind.precision - 1
    context = decimal.Context(prec=100)
    return st.integers(-limit, limit).map(
        lambda number: decimal.Decimal(number).scaleb(-kind.scale, context)
    )


def _temporal(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if kind == pa.month_day_nano_interval():
        number = st.integers(-1000, 1000)
        return st.tuples(number, number, number).map(pa.MonthDayNano)
    if pa.types.is_time(kind):
        return st.integers(0, 86_399)
    return st.integers(-(10**9), 10**9)


def arrays() -> st.SearchStrategy[pa.Array]:
    """An array of any type."""
    return types().flatmap(arrays_of)


@st.composite
def chunked_arrays(
    draw: st.DrawFn, kind: pa.DataType | None = None, length: int | None = None
) -> pa.ChunkedArray:
    """A chunked array; chunks may be empty, and there may be none."""
    if kind is None:
        kind = draw(types())
    if length is None:
        length = draw(st.integers(0, MAX_LENGTH))
    cuts = draw(st.lists(st.integers(0, length), max_size=2).map(sorted))
    bounds = [0, *cuts, length]
    chunks = [draw(arrays_of(kind, after - before)) for before, after in itertools.pairwise(bounds)]
    if length == 0 and draw(st.booleans()):
        chunks = []
    return pa.chunked_array(chunks, kind)


_METADATA = st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)


@st.composite
def schemas(draw: st.DrawFn) -> pa.Schema:
    """A schema with metadata on it and on its fields; names may repeat."""
    kinds = draw(st.lists(types(), max_size=4))
    names = draw(st.lists(st.text(max_size=4), min_size=len(kinds), max_size=len(kinds)))
    fields = [
        pa.field(name, kind, metadata=draw(_METADATA))
        for name, kind in zip(names, kinds, strict=True)
    ]
    return pa.schema(fields, draw(_METADATA))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A table; each column is chunked and sliced on its own."""
    schema = draw(schemas())
    length = draw(st.integers(0, MAX_LENGTH))
    columns = [draw(chunked_arrays(field.type, length)) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


@st.composite
def record_batches(draw: st.DrawFn) -> pa.RecordBatch:
    schema = draw(schemas())
    length = draw(st.integers(0, MAX_LENGTH))
    columns = [draw(arrays_of(field.type, length)) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
