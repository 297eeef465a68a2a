"""What goes Ray's own way: equal to what plain pickle gives, without the rest of a slice's buffers.

The oracle is pickle as it is without the plugin.
"""

import io
import pickle
import sys

import pyarrow as pa
import pytest
import ray
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.helpers import arrow_strategies
from zerrow_ray import compact

REPEATS = 3000
SLACK = 16_384
"""Bytes of the types' own pickles, of padding, and of what is not worth a copy."""


@pytest.fixture(scope="module", params=["registered", "unregistered"], autouse=True)
def point_type(request):
    if request.param == "unregistered":
        yield
        return
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")


def kinds_without_ipc():
    """Types that Arrow's IPC format cannot describe, at the top or below."""
    words = pa.dictionary(pa.int8(), pa.string())
    values = [words, pa.uuid(), arrow_strategies.PointType(), pa.struct([("a", words)])]
    bad = st.sampled_from(values).map(lambda kind: pa.dictionary(pa.int16(), kind))
    return bad | bad.map(pa.list_) | bad.map(lambda kind: pa.struct([("a", kind), ("b", words)]))


kinds = arrow_strategies.types() | kinds_without_ipc()


@st.composite
def slices(draw, kind=None):
    """A few rows, or none, out of thousands."""
    kind = draw(kinds) if kind is None else kind  # a struct without fields is false
    array = draw(arrow_strategies.arrays_of(kind, 3))
    try:
        whole = pa.concat_arrays([array] * REPEATS)
    except pa.ArrowNotImplementedError:
        assume(False)
    return whole.slice(draw(st.integers(0, 2 * REPEATS)), draw(st.integers(0, 4)))


@st.composite
def chunked_slices(draw):
    kind = draw(kinds)
    return pa.chunked_array(draw(st.lists(slices(kind), max_size=3)), kind)


@st.composite
def batch_slices(draw):
    columns = draw(st.lists(slices(), max_size=3))
    rows = min(map(len, columns), default=0)
    fields = [
        pa.field(f"c{i % 2}", column.type, metadata={"n": str(i)})
        for i, column in enumerate(columns)
    ]
    schema = pa.schema(fields, metadata={"of": "the batch"})
    return pa.RecordBatch.from_arrays([column.slice(0, rows) for column in columns], schema=schema)


def size_of_rows(value):
    """Twice what the value's own rows take, as IPC counts them; without a bound for what IPC cannot
    write, and for views, whose data it writes whole.
    """
    arrays = value.columns if isinstance(value, pa.RecordBatch) else [value]
    if not all(is_truncated(array.type) for array in arrays):
        return sys.maxsize
    chunks = [chunk for array in arrays for chunk in getattr(array, "chunks", [array])]
    return 2 * sum(pa.ipc.get_record_batch_size(pa.record_batch([chunk], [""])) for chunk in chunks)


def is_truncated(kind):
    if pa.types.is_dictionary(kind):
        values = kind.value_type
        bad = isinstance(values, pa.BaseExtensionType | pa.DictionaryType)
        return not bad and is_truncated(values)
    if isinstance(kind, pa.ExtensionType):
        return is_registered(kind)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return False
    return all(is_truncated(kind.field(i).type) for i in range(kind.num_fields))


def is_registered(kind):
    schema = pa.schema([("", kind)])
    return pa.ipc.read_schema(schema.serialize()) == schema


def compactly(value):
    """Bytes that pickle makes where the plugin's reducer stands in."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj):
            return compact.reduce_compact(obj) if obj is value else NotImplemented

    sink = io.BytesIO()
    Pickler(sink, protocol=5).dump(value)
    return sink.getvalue()


def assert_same(got, expected):
    got.validate(full=True)
    assert type(got) is type(expected)
    assert got.equals(expected)
    if isinstance(got, pa.RecordBatch):
        assert got.schema.equals(expected.schema, check_metadata=True)
        assert [type(field.type) for field in got.schema] == [
            type(field.type) for field in expected.schema
        ]
        return
    assert got.type == expected.type
    assert type(got.type) is type(expected.type)
    if isinstance(got, pa.ChunkedArray):
        assert [len(chunk) for chunk in got.chunks] == [len(chunk) for chunk in expected.chunks]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=slices() | chunked_slices() | batch_slices())
def test_a_slice_is_what_pickle_makes_of_it(value):
    plain = pickle.dumps(value, protocol=5)
    pickled = compactly(value)
    assert_same(pickle.loads(pickled), pickle.loads(plain))
    assert len(pickled) <= min(len(plain), size_of_rows(value)) + SLACK


@pytest.mark.usefixtures("cluster")
def test_slices_through_ray():
    words = pa.array(["a", "b"] * 50_000)
    nested = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), words.dictionary_encode())
    dictionaries = nested.take(pa.array([0, 1] * 50_000))
    # Not in a batch: Ray's own reducer of schemas loses such a type.
    batch = pa.record_batch({"words": words, "numbers": pa.array(range(100_000))})
    for value in (batch, words, dictionaries, pa.chunked_array([words, words])):
        for length in (0, 2):
            part = value.slice(10, length)
            assert_same(ray.get(ray.put(part)), part)
