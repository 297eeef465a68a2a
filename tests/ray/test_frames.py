"""pandas frames come back by reference exactly as they do on plain Ray, whatever is in them."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
import ray.cloudpickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zerrow_ray import config

pytestmark = pytest.mark.usefixtures("cluster", "everything_by_reference")


@pytest.fixture(scope="module")
def everything_by_reference(cluster: None) -> Iterator[None]:
    """Let this driver publish frames of any size."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ZERROW_THRESHOLD", "1")
    config.plugin_config.cache_clear()
    yield
    patch.undo()
    config.plugin_config.cache_clear()


ROWS = st.shared(st.integers(0, 40), key="rows")

DTYPES = ["int8", "uint64", "float32", "float64", "bool", "complex128", "M8[ns]", "m8[s]"]


def numbers(rows: int, dtype: str) -> np.ndarray:
    if dtype == "bool":
        return np.arange(rows) % 3 == 0
    return np.arange(rows).astype(dtype)


def numpy_column(rows: int) -> st.SearchStrategy:
    return st.sampled_from(DTYPES).map(lambda dtype: numbers(rows, dtype))


def arrow_column(rows: int) -> st.SearchStrategy:
    arrays = [
        pa.array([i if i % 4 else None for i in range(rows)], pa.int32()),
        pa.array([str(i) if i % 4 else None for i in range(rows)], pa.string()),
        pa.array([[i] * (i % 3) for i in range(rows)], pa.list_(pa.int64())),
        pa.array([datetime.date(2020, 1, 1 + i % 28) for i in range(rows)], pa.date32()),
        pa.array(
            [{"a": i, "b": str(i)} for i in range(rows)], pa.struct({"a": "int8", "b": "string"})
        )
        if rows
        else pa.array([], pa.struct({"a": "int8", "b": "string"})),
    ]
    return st.sampled_from(arrays).map(lambda a: pd.Series(a, dtype=pd.ArrowDtype(a.type)).array)


def text_column(rows: int) -> st.SearchStrategy:
    return st.just(pd.array([str(i) if i % 5 else None for i in range(rows)], dtype="str"))


def column(rows: int) -> st.SearchStrategy:
    return st.one_of(numpy_column(rows), arrow_column(rows), text_column(rows))


def index(rows: int) -> st.SearchStrategy:
    return st.sampled_from(
        [
            pd.RangeIndex(rows),
            pd.RangeIndex(5, 5 + 2 * rows, 2, name="r"),
            pd.Index(np.arange(rows)[::-1].copy(), name="i"),
            pd.Index([f"k{i}" for i in range(rows)], dtype=object),
            pd.Index([f"k{i}" for i in range(rows)], dtype="str"),
            pd.date_range("2020-01-01", periods=rows, freq="D", tz="UTC"),
            pd.period_range("2020-01", periods=rows, freq="M"),
            pd.interval_range(0, rows) if rows else pd.IntervalIndex([]),
            pd.CategoricalIndex([i % 2 for i in range(rows)]),
            pd.MultiIndex.from_arrays([np.arange(rows), np.arange(rows) % 2], names=["a", None]),
        ]
    )


ATTRS = st.dictionaries(
    st.text(max_size=3),
    st.one_of(
        st.integers(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.just({"nested": (1, [2, {3}])}),
        st.just(np.arange(5)),
        st.just(np.zeros(200_000)),
    ),
    max_size=3,
)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(ROWS)
    columns = draw(st.lists(column(rows), min_size=0, max_size=5))
    labels = draw(
        st.sampled_from(
            [
                list(range(len(columns))),
                [("a", i) for i in range(len(columns))],
                ["x"] * len(columns),
            ]
        )
    )
    made = pd.DataFrame(dict(enumerate(columns)), index=draw(index(rows)))
    made.columns = pd.Index(labels, tupleize_cols=draw(st.booleans()))
    if draw(st.booleans()):
        made = made.iloc[rows // 3 :: draw(st.sampled_from([1, 2]))]
    if draw(st.booleans()):
        made = made.copy()  # blocks of one dtype become one
    made.attrs = draw(ATTRS)
    made.flags.allows_duplicate_labels = draw(st.just(True))
    return made


def assert_same(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(got, expected, check_freq=True, check_flags=True)
    assert type(got.index) is type(expected.index)
    assert type(got.columns) is type(expected.columns)
    assert got.attrs.keys() == expected.attrs.keys()
    for name, value in expected.attrs.items():
        assert type(got.attrs[name]) is type(value)
        np.testing.assert_equal(got.attrs[name], value)


EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@EXAMPLES
@given(frame=frames())
def test_frames_are_what_plain_pickling_gives(frame: pd.DataFrame) -> None:
    expected = ray.cloudpickle.loads(ray.cloudpickle.dumps(frame))
    assert_same(ray.get(ray.put(frame)), expected)


@EXAMPLES
@given(several=st.lists(frames(), min_size=1, max_size=3), array=st.just(np.arange(100_000)))
def test_frames_among_other_things(several: list[pd.DataFrame], array: np.ndarray) -> None:
    given_value = {"frames": several, "again": several[0], "array": array}
    expected = ray.cloudpickle.loads(ray.cloudpickle.dumps(given_value))
    got = ray.get(ray.put(given_value))
    for one, other in zip(got["frames"], expected["frames"], strict=True):
        assert_same(one, other)
    assert_same(got["again"], expected["again"])
    np.testing.assert_array_equal(got["array"], array)


class Subclass(pd.DataFrame):
    """Has a property that pandas is to keep."""

    _metadata = ["unit"]  # noqa: RUF012  (a list, for pandas)

    @property
    def _constructor(self) -> type:
        return Subclass


def test_a_subclass_stays_what_it_is() -> None:
    made = Subclass({"x": np.arange(1000)})
    made.unit = "m"
    got = ray.get(ray.put(made))
    assert type(got) is Subclass
    assert got.unit == "m"


LONG = 200_000


def arrow_born() -> pa.Table:
    nulls = pa.array([None if i % 3 else float(i) for i in range(LONG)])
    chunks = pa.chunked_array([pa.array(range(LONG // 2)), pa.array(range(LONG // 2))])
    return pa.table({"chunks": chunks, "nulls": nulls, "words": pa.array(map(str, range(LONG)))})


def in_table(column: np.ndarray) -> pa.Table:
    return pa.table({"x": column})


def first_of(column: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"x": column}, copy=False)


WRITABLE = [
    lambda: arrow_born()["chunks"].to_numpy(),
    lambda: arrow_born()["nulls"].to_numpy(),
    lambda: arrow_born()["nulls"].combine_chunks().to_numpy(zero_copy_only=False),
    lambda: np.asarray(arrow_born()["chunks"]),
    lambda: pa.array(range(LONG)).to_numpy(zero_copy_only=False, writable=True),
    lambda: np.arange(LONG),
    lambda: np.frombuffer(pa.allocate_buffer(8 * LONG), "i8"),
]


@pytest.mark.parametrize("make", WRITABLE)
@pytest.mark.parametrize("wrap", [in_table, first_of])
def test_what_is_put_does_not_change_with_the_array_below(make, wrap) -> None:
    """Also where Arrow has allocated the array, and pyarrow has made it writable."""
    column = make()
    column[:] = 1
    ref = ray.put(wrap(column))
    column[:] = -1
    got = ray.get(ref)
    assert set(np.unique(np.asarray(got["x"]))) == {1}


def by_writer(buffer: pa.Buffer, file: Path) -> None:
    with pa.FixedSizeBufferWriter(buffer) as writer:
        writer.write(file.read_bytes())


def by_file(buffer: pa.Buffer, file: Path) -> None:
    with pa.OSFile(str(file)) as source:
        source.readinto(buffer)


def by_view(buffer: pa.Buffer, file: Path) -> None:
    memoryview(buffer).cast("B")[:] = file.read_bytes()


@pytest.mark.parametrize("resizable", [False, True])
@pytest.mark.parametrize("fill", [by_writer, by_file, by_view])
def test_what_is_put_does_not_change_with_a_buffer_that_is_filled_again(
    tmp_path: Path, fill: Callable[[pa.Buffer, Path], None], resizable: bool
) -> None:
    for value in (1, -1):
        (tmp_path / str(value)).write_bytes(np.full(LONG, value).tobytes())
    buffer = pa.allocate_buffer(8 * LONG, resizable=resizable)
    fill(buffer, tmp_path / "1")
    ref = ray.put(pa.table({"x": pa.Array.from_buffers(pa.int64(), LONG, [None, buffer])}))
    fill(buffer, tmp_path / "-1")
    assert ray.get(ref)["x"].unique().to_pylist() == [1]


def test_a_frame_of_arrow_changes_after_it_was_put() -> None:
    frame = arrow_born().to_pandas()
    expected = frame.copy(deep=True)
    ref = ray.put(frame)
    for column in ("chunks", "nulls"):
        frame.loc[5, column] = -1  # in place, as nobody else has the frame
    pd.testing.assert_frame_equal(ray.get(ref), expected)


def test_an_actor_changes_what_it_has_returned() -> None:
    @ray.remote
    class Holder:
        def frame(self) -> pd.DataFrame:
            self.kept = pa.table({"x": pa.chunked_array([range(LONG), range(LONG)])}).to_pandas()
            return self.kept

        def change(self) -> None:
            self.kept.iloc[:, 0] = -1

    actor = Holder.options(runtime_env={"env_vars": {"ZERROW_THRESHOLD": "1"}}).remote()
    got = ray.get(actor.frame.remote())
    before = got.copy(deep=True)
    ray.get(actor.change.remote())
    pd.testing.assert_frame_equal(got, before)
