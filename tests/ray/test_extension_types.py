"""Extension types by reference: a reader gets what it gets from Ray, registered there or not.

The oracle is Ray's own path, in the same cluster.
"""

import contextlib

import pyarrow as pa
import pytest
import ray

import zerrow_ray
from tests.helpers.arrow_strategies import PointType
from tests.helpers.rays import Moved
from zerrow_ray import config
from zerrow_ray.extension_types import is_lost_in_schemas

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 6
POINTS = pa.array([[i, i + 1] for i in range(ROWS)], pa.list_(pa.float64(), 2))
OFFSETS = pa.array([0, 2, 4, 6], pa.int32())


class LocalType(PointType):
    """Nobody has registered this one."""

    def __init__(self):
        pa.ExtensionType.__init__(self, pa.list_(pa.float64(), 2), "zerrow.test.local")


def nestings(array):
    """An array, and others that have it in them, of each nested type that there is."""
    keys = pa.array([str(i) for i in range(ROWS)])
    codes, positions = pa.array([0] * ROWS, pa.int8()), pa.array(range(ROWS), pa.int32())
    sizes = pa.array([2, 2, 2], pa.int32())
    yield "plain", array
    yield "struct", pa.StructArray.from_arrays([keys, array], ["k", "v"])
    yield "list", pa.ListArray.from_arrays(OFFSETS, array)
    yield "list_view", pa.ListViewArray.from_arrays(OFFSETS[:-1], sizes, array)
    yield "fixed_size_list", pa.FixedSizeListArray.from_arrays(array, 2)
    yield "map", pa.MapArray.from_arrays(OFFSETS, keys, array)
    yield "dictionary", pa.DictionaryArray.from_arrays(positions, array)
    ends = pa.array(range(1, ROWS + 1), pa.int32())
    yield "run_end_encoded", pa.RunEndEncodedArray.from_arrays(ends, array)
    yield "dense_union", pa.UnionArray.from_dense(codes, positions, [array])
    yield "sparse_union", pa.UnionArray.from_sparse(codes, [array])


def opaque(array):
    """An extension of an extension. IPC writes the outer one's name only."""
    return pa.ExtensionArray.from_storage(pa.opaque(array.type, "kind", "vendor"), array)


def wrappings(array):
    yield array
    yield pa.chunked_array([array, array])
    yield pa.record_batch([array], ["a"])
    yield pa.table({"a": array})


USER_TYPES = {"importable": PointType(), "local": LocalType()}
ARROWS_TYPES = [
    (pa.bool8(), pa.array([0, 1, None] * 2, pa.int8())),
    (pa.fixed_shape_tensor(pa.float64(), (2,)), POINTS),
    (pa.json_(), pa.array(["1"] * ROWS)),
    (pa.opaque(POINTS.type, "kind", "vendor"), POINTS),
    (pa.uuid(), pa.array([bytes(16)] * ROWS, pa.binary(16))),
]


@pytest.fixture(autouse=True)
def ray_as_it_is_for_users(monkeypatch):
    """Under pytest Ray raises for what it sends by IPC otherwise."""
    monkeypatch.setattr("ray._private.arrow_serialization.is_in_test", lambda: False)


@contextlib.contextmanager
def registered(kind):
    pa.register_extension_type(kind)
    try:
        yield
    finally:
        pa.unregister_extension_type(kind.extension_name)


@contextlib.contextmanager
def threshold(nbytes):
    config.plugin_config.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZERROW_THRESHOLD", str(nbytes))
        config.plugin_config()
    yield
    config.plugin_config.cache_clear()


@ray.remote(num_cpus=0)
class Reader:
    def __init__(self, kinds):
        for kind in kinds:
            pa.register_extension_type(kind)

    def look(self, refs):
        (value,) = ray.get(refs)
        value.validate(full=True)
        if isinstance(value, pa.Table | pa.RecordBatch):
            return value.schema.to_string(), list(map(str, value.columns))
        return str(value.type), type(value.type).__name__, type(value).__name__, str(value)


def puts():
    """How many values have gone by reference."""
    (store,) = zerrow_ray.stats().nodes.values()
    return store.puts


def outcome(value, reader):
    """What the reader sees; None if it cannot read the value at all."""
    try:
        return ray.get(reader.look.remote([ray.put(value)]))
    except (ray.exceptions.RayTaskError, pa.ArrowException):
        return None


@pytest.mark.parametrize("at_the_reader", [False, True])
@pytest.mark.parametrize("at_the_sender", [False, True])
@pytest.mark.parametrize("kind", USER_TYPES.values(), ids=USER_TYPES)
def test_a_reader_gets_what_it_gets_from_ray(kind, at_the_sender, at_the_reader):
    reader = Reader.remote([kind] if at_the_reader else [])
    with registered(kind) if at_the_sender else contextlib.nullcontext():
        points = pa.ExtensionArray.from_storage(kind, POINTS)
        for name, array in [*nestings(points), ("opaque", opaque(points))]:
            for value in wrappings(array):
                with threshold(1 << 60):
                    expected = outcome(value, reader)
                with threshold(0):
                    got = outcome(value, reader)
                # Ray fails where a batch's schema comes without the class that a column keeps.
                assert got == expected or expected is None, (name, type(value).__name__)


@pytest.mark.parametrize(("kind", "storage"), ARROWS_TYPES, ids=lambda value: str(value)[:30])
def test_arrows_own_types_go_by_reference(kind, storage):
    reader = Reader.remote([])
    array = pa.ExtensionArray.from_storage(kind, storage)
    for name, nested in nestings(array):
        if name == "dictionary":  # which SIPC cannot describe
            continue
        assert not is_lost_in_schemas(nested.type), name
        for value in wrappings(nested):
            with threshold(1 << 60):
                expected = outcome(value, reader)
            before = puts()
            with threshold(0):
                assert outcome(value, reader) == expected, (name, type(value).__name__)
            assert puts() > before, (name, type(value).__name__)


def test_tables_of_a_users_type_go_by_reference():
    table = pa.table({"a": pa.ExtensionArray.from_storage(PointType(), POINTS)})
    with threshold(0), Moved() as moved:
        ray.get(ray.put(table))
    assert moved.copied + moved.stored + moved.reshared > 0


@pytest.mark.parametrize("kind", USER_TYPES.values(), ids=USER_TYPES)
def test_a_users_type_is_found_at_any_depth(kind):
    array = pa.ExtensionArray.from_storage(kind, POINTS)
    for name, nested in nestings(array):
        assert is_lost_in_schemas(nested.type), name
        assert is_lost_in_schemas(pa.list_(nested.type)), name
    for name, nested in [*nestings(POINTS), ("opaque", opaque(POINTS))]:
        assert not is_lost_in_schemas(nested.type), name
    assert is_lost_in_schemas(pa.opaque(pa.uuid(), "kind", "vendor"))
