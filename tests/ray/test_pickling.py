"""What surrounds a table or a frame goes through the pickler of everything else in its object.

Plain pickling is left alone: what `ray.cloudpickle.dumps` makes, also while Ray serializes, stands
for itself.
"""

import gc
import pickle
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
import ray.cloudpickle

from tests.helpers.rays import ROWS, make, total
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("cluster")


def frame(**attrs) -> pd.DataFrame:
    made = pd.DataFrame({"x": np.arange(ROWS), "y": np.arange(ROWS) * 0.5})
    made.attrs.update(attrs)
    return made


@ray.remote
def identity(value):
    return value


@ray.remote
def nested(value):
    return {"deep": [value]}


def through_put(value):
    return ray.get(ray.put(value))


def through_task(value):
    return ray.get(identity.remote(value))


def through_container(value):
    return ray.get(nested.remote([value]))["deep"][0][0]


WAYS = [through_put, through_task, through_container]

# As if of __main__: cloudpickle has to pickle these by value.
scope = {"__name__": "__main__"}
exec(
    """
import collections, dataclasses, enum
Label = collections.namedtuple("Label", "a b")
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
""",
    scope,
)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


def test_attributes_that_only_cloudpickle_can_pickle(way):
    before = total()["bytes_shared"]
    got = way(frame(f=lambda x: x + 1, point=scope["Point"](3)))
    assert got.attrs["f"](1) == 2
    assert got.attrs["point"].x == 3
    assert got["y"].iloc[-1] == (ROWS - 1) * 0.5
    assert total()["bytes_shared"] > before


@pytest.mark.parametrize(
    "labels",
    [
        [scope["Label"](1, 2), scope["Label"](3, 4)],
        [scope["Colour"].RED, scope["Colour"].BLUE],
        [scope["Point"](1), scope["Point"](2)],
    ],
    ids=["namedtuple", "enum", "dataclass"],
)
def test_labels_of_the_users_own_classes(way, labels):
    given = pd.DataFrame(np.zeros((ROWS, 2)))
    given.columns = pd.Index(labels, tupleize_cols=False)
    got = way(given)
    # Their class was pickled by value: the reader's is another one of the same name.
    assert [repr(label) for label in got.columns] == [repr(label) for label in labels]


def test_references_within_a_frame_are_counted(way):
    array = np.arange(200_000)
    given = frame(r=ray.put(array))
    got = way(given)
    del given
    gc.collect()
    np.testing.assert_array_equal(ray.get(got.attrs["r"], timeout=60), array)


def test_actor_handles_within_a_frame(way):
    @ray.remote
    class Counter:
        def one(self):
            return 1

    given = frame(actor=Counter.remote())
    got = way(given)
    del given
    gc.collect()
    assert ray.get(got.attrs["actor"].one.remote(), timeout=60) == 1


class Registered:
    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        raise TypeError("only its registered serializer can do this")


def test_registered_serializers_apply_within_a_frame():
    ray.util.register_serializer(
        Registered, serializer=lambda r: r.value, deserializer=lambda v: Registered(v)
    )
    try:
        assert through_put(frame(r=Registered(7))).attrs["r"].value == 7
    finally:
        ray.util.deregister_serializer(Registered)


def test_a_users_serializer_of_a_table_has_the_last_word():
    ray.util.register_serializer(
        pd.DataFrame, serializer=lambda f: len(f), deserializer=lambda n: f"{n} rows"
    )
    try:
        assert through_put(frame()) == f"{ROWS} rows"
    finally:
        ray.util.deregister_serializer(pd.DataFrame)
    assert len(through_put(frame())) == ROWS


class Celsius(pa.ExtensionType):
    def __init__(self):
        super().__init__(pa.float64(), "tests.celsius")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


def test_columns_of_the_users_own_arrow_type(way):
    storage = pa.array(np.arange(ROWS) * 1.0)
    column = pd.Series(
        pa.ExtensionArray.from_storage(Celsius(), storage), dtype=pd.ArrowDtype(Celsius())
    )
    got = way(pd.DataFrame({"t": column, "x": np.arange(ROWS)}))
    assert isinstance(got["t"].dtype.pyarrow_dtype, pa.BaseExtensionType)
    assert got["t"].dtype.pyarrow_dtype.storage_type == pa.float64()
    assert len(got) == ROWS


def test_what_is_shared_within_an_object_stays_shared():
    box = ["box"]
    given = frame(box=box)
    got = through_put(types.SimpleNamespace(frame=given, box=box, again=given))
    assert got.frame.attrs["box"] is got.box
    assert got.again is got.frame


def test_a_frame_that_holds_itself():
    given = frame()
    given.attrs["self"] = given
    got = through_put(given)
    assert got.attrs["self"] is got


def test_many_frames_in_one_object():
    frames = [frame(n=i) for i in range(5)]
    small = [pd.DataFrame({"a": [i]}) for i in range(5)]
    got, tiny = through_put((frames, small))
    assert [f.attrs["n"] for f in got] == list(range(5))
    assert [t["a"][0] for t in tiny] == list(range(5))
    for f in got:
        np.testing.assert_array_equal(f["x"], np.arange(ROWS))


def test_frames_beside_large_arrays():
    array = np.arange(ROWS)
    before, first, between, second, after = through_put(
        [array, frame(n=1), array + 1, frame(n=2), array + 2]
    )
    np.testing.assert_array_equal(before, array)
    np.testing.assert_array_equal(between, array + 1)
    np.testing.assert_array_equal(after, array + 2)
    assert (first.attrs, second.attrs) == ({"n": 1}, {"n": 2})
    np.testing.assert_array_equal(second["x"], array)


class SelfMade:
    """Pickles a table by itself, as many libraries do for what they send or keep on disk."""

    def __init__(self, value):
        self.value = value

    def __getstate__(self):
        return ray.cloudpickle.dumps(self.value)

    def __setstate__(self, state):
        self.state = state
        self.value = ray.cloudpickle.loads(state)


@pytest.mark.parametrize("kind", [make, frame, lambda: make().to_batches()[0], lambda: make()["x"]])
def test_nested_dumps_stand_for_themselves(kind, way):
    before = total()
    state = way(SelfMade(kind())).state
    gc.collect()
    eventually(lambda: total()["objects"] <= before["objects"], "nothing is stored")
    assert b"zerrow" not in state
    assert len(pickle.loads(state)) == ROWS


def test_plain_pickling_is_left_alone():
    for value in (make(), frame(), make().slice(3, 5), make().to_batches()[0].slice(3, 5)):
        for dumps in (pickle.dumps, ray.cloudpickle.dumps):
            data = dumps(value)
            assert b"zerrow" not in data
            assert len(pickle.loads(data)) == len(value)


def of_a_worker_whose_function_imports_pyarrow(value):
    return value


@pytest.mark.parametrize("load", [identity, of_a_worker_whose_function_imports_pyarrow])
def test_references_in_results_are_counted_wherever_pyarrow_was_imported(load):
    """Ray pins a reference for good that it takes for one outside of its objects."""
    function = load if load is identity else ray.remote(load)

    @ray.remote
    def inner():
        return np.arange(200_000)

    def counts():
        return ray._private.worker.global_worker.core_worker.get_all_reference_counts()

    ref = inner.remote()
    ray.wait([ref])
    key = ref.hex().encode()
    got = ray.get(function.remote([make(), {"r": [ref]}]))[1]["r"][0]
    assert got == ref
    pinned = ray.get([ray.remote(counts).remote() for _ in range(4)])
    assert not any(each.get(key, {}).get("local", 0) for each in pinned)
