"""Data comes back equal to what went in; pyarrow's own IPC is the oracle."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.helpers import arrow_strategies as arrow
from tests.helpers.examples import EXAMPLES
from tests.helpers.publishing import Publisher
from tests.helpers.pyarrows import PYARROW, breaks_slices, through_arrow_ipc
from zerrow_store.native import _native

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(data: pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array) -> None:
    publisher = Publisher()
    try:
        decoded = publisher.trip(data)
        assert type(decoded) is type(data)
        decoded.validate(full=True)
        if isinstance(data, pa.Table | pa.RecordBatch):
            assert decoded.schema.equals(data.schema, check_metadata=True)
        else:
            assert decoded.type == data.type
        assert decoded.equals(data)
        # Once more from mapped memory.
        again = publisher.trip(decoded)
        again.validate(full=True)
        assert again.equals(data)
    finally:
        publisher.close()


@SETTINGS
@given(arrow.tables())
def test_tables(table: pa.Table) -> None:
    check(table)


@SETTINGS
@given(arrow.record_batches())
def test_record_batches(batch: pa.RecordBatch) -> None:
    check(batch)


@SETTINGS
@given(arrow.chunked_arrays())
def test_chunked_arrays(array: pa.ChunkedArray) -> None:
    check(array)


@SETTINGS
@given(arrow.arrays())
def test_arrays(array: pa.Array) -> None:
    check(array)


@SETTINGS
@given(arrow.tables(), st.data())
def test_slices_of_tables(table: pa.Table, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(table)))
    check(table.slice(start, data.draw(st.integers(0, len(table) - start))))


@SETTINGS
@given(arrow.record_batches())
def test_as_arrow_ipc_returns_it(batch: pa.RecordBatch) -> None:
    table = pa.Table.from_batches([batch])
    expected = through_arrow_ipc(table)
    if breaks_slices(expected):
        reject()
    publisher = Publisher()
    decoded = publisher.trip(table)
    publisher.close()
    assert decoded.schema.equals(expected.schema, check_metadata=True)
    assert decoded.equals(expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_whole_and_sliced(name: str) -> None:
    array = EXAMPLES[name]
    for data in (array, array.slice(1), array.slice(1, 1), array.slice(len(array))):
        check(data)
        check(pa.chunked_array([data, array]))


def test_an_empty_slice_that_another_library_made(publisher: Publisher) -> None:
    data = pa.array(["a", "b"], pa.string_view()).slice(2)
    imported = pa.Array._import_from_c_capsule(*data.__arrow_c_array__())
    assert publisher.trip(imported).equals(data)


def test_views_without_a_buffer_of_data() -> None:
    """pyarrow 19's cast gives such views a buffer that is null, newer ones give them none."""
    for kind, view in ((pa.string(), pa.string_view()), (pa.binary(), pa.binary_view())):
        views = pc.cast(pa.array([b"a", None, b"b"], kind), view)
        for data in (views, views.slice(1), pa.StructArray.from_arrays([views], ["views"])):
            check(data)
        longer = pa.array([b"longer than there is room for in a view"], view)
        check(pa.chunked_array([views, longer]))


@pytest.mark.parametrize(
    "data",
    [
        pa.table({}),
        pa.table({}).replace_schema_metadata({"only": "metadata"}),
        pa.table({"a": pa.chunked_array([], pa.int64())}),
        pa.table({"a": pa.array([], pa.string())}),
        pa.table([pa.array([1]), pa.array([2])], names=["same", "same"]),
        pa.chunked_array([], pa.list_(pa.string())),
        pa.RecordBatch.from_struct_array(pa.array([{}] * 3, pa.struct([]))),
    ],
    ids=["nothing", "metadata", "no chunks", "no rows", "same names", "no chunks of lists", "rows"],
)
def test_empty_and_odd(data: pa.Table) -> None:
    check(data)


def test_rows_without_columns_are_counted(publisher: Publisher) -> None:
    table = pa.table({"a": [1, 2, 3]}).select([])
    assert publisher.trip(table).num_rows == table.num_rows


def test_metadata_of_schema_and_nested_fields(publisher: Publisher) -> None:
    inner = pa.field("x", pa.int8(), nullable=False, metadata={"unit": "m"})
    schema = pa.schema([pa.field("s", pa.struct([inner]), metadata={"k": "v"})], {"m": "n"})
    table = pa.table({"s": [{"x": 1}]}, schema=schema)
    assert publisher.trip(table).schema.equals(schema, check_metadata=True)


def test_unregistered_extension_comes_as_its_storage(publisher: Publisher) -> None:
    kind = arrow.PointType()
    points = pa.ExtensionArray.from_storage(kind, pa.array([[1.0, 2.0]], kind.storage_type))
    message = publisher.encode(pa.table({"p": points})).message
    pa.unregister_extension_type("zerrow.test.point")
    try:
        decoded = _native.decode(message, None)
    finally:
        pa.register_extension_type(kind)
    field = decoded.schema.field("p")
    assert field.type == kind.storage_type
    assert field.metadata[b"ARROW:extension:name"] == b"zerrow.test.point"
    assert decoded.column("p").to_pylist() == [[1.0, 2.0]]


def test_chunks_share_a_dictionary(publisher: Publisher) -> None:
    array = pa.array(["a", "b", "c"] * 100).dictionary_encode()
    chunked = pa.chunked_array([array.slice(0, 100), array.slice(100)])
    decoded = publisher.trip(chunked)
    first, second = (chunk.dictionary.buffers()[2].address for chunk in decoded.chunks)
    assert first == second


@pytest.mark.parametrize(
    "values",
    [pa.array([b"0123456789abcdef"], pa.uuid()), pa.array(["x"]).dictionary_encode()],
    ids=["extension", "dictionary"],
)
def test_what_arrow_cannot_describe_is_refused(values: pa.Array) -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), values)
    with pytest.raises(ValueError, match="cannot describe"):
        _native.encode(array)


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="Table, RecordBatch"):
        _native.encode([1, 2, 3])


def test_buffers(publisher: Publisher) -> None:
    small, large, empty = b"small", bytes(range(256)) * 100, b""
    encoded = publisher.encode_buffers(b"header", [small, large, memoryview(empty)])
    header, buffers = _native.decode(encoded.message, None)
    assert header == b"header"
    assert [buffer.to_pybytes() for buffer in buffers] == [small, large, empty]
    assert not any(buffer.is_mutable for buffer in buffers)
    assert encoded.bytes_copied == len(small) + len(large)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view()], ids=str)
def test_views_reach_a_size(kind: pa.DataType) -> None:
    """Beside all versions: pyarrow's own nbytes of views raises up to 23."""
    views = pa.array([b"x" * 100] * 1000, kind)
    struct = pa.StructArray.from_arrays([views], ["views"])
    lists = pa.ListArray.from_arrays(pa.array([0, 500, 1000], pa.int32()), views)
    for array in (views, struct, lists):
        for value in (array, pa.chunked_array([array, array[:1]]), pa.table({"a": array})):
            assert _native.reaches(value, 100_000)
            assert not _native.reaches(value, 1_000_000)


@SETTINGS
@given(array=arrow.arrays())
def test_whether_data_reaches_a_size_agrees_with_its_nbytes(array: pa.Array) -> None:
    try:
        assert array.nbytes >= 0
    except pa.ArrowTypeError:
        assert PYARROW <= 23, "only older ones do not know the size of views"
        reject()
    chunked = pa.chunked_array([array, array[:1]])
    for value in (array, chunked, pa.table({"a": array}), pa.record_batch({"a": array})):
        chunks = getattr(value, "num_chunks", 1)
        bitmaps = len(value) // 8 + 2 * chunks
        assert not _native.reaches(value, value.nbytes + 1)
        # What has no rows counts nothing, though it may have a dictionary.
        assert _native.reaches(value, value.nbytes - bitmaps) or len(value) == 0
