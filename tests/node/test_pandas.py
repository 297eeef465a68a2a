"""Tables of the store as pandas frames: what is not copied, and what a write does."""

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.stores import Store

ROWS = 100_000

needs_pandas_3 = pytest.mark.skipif(
    int(pd.__version__.split(".")[0]) < 3,
    reason=f"pandas {pd.__version__} has strings as objects, and adds to a column in place",
)


@pytest.fixture
def view(store: Store) -> pa.Table:
    """As a reader has it, of one chunk."""
    numbers = pc.add(pa.array(range(ROWS)), 0)
    table = pa.table(
        {
            "i": numbers,
            "f": numbers.cast(pa.float64()),
            "t": numbers.cast(pa.timestamp("ns")),
            "n": pc.if_else(pc.equal(numbers, 7), None, numbers),
            "s": numbers.cast(pa.string()),
            "b": pc.greater(numbers, 5),
        }
    )
    client = store.connected()
    return client.get(client.put(table))


def address(column: pd.Series) -> int:
    """Where NumPy has a column's values."""
    return column.to_numpy().__array_interface__["data"][0]


def values(view: pa.Table, name: str) -> int:
    return view[name].chunk(0).buffers()[-1].address


def test_arrow_types_are_never_copied(view: pa.Table) -> None:
    frame = view.to_pandas(types_mapper=pd.ArrowDtype)
    for name in view.column_names:
        assert pa.table(frame)[name].chunk(0).buffers()[-1].address == values(view, name)


def test_numbers_and_times_without_nulls_are_not_copied_in_split_blocks(view: pa.Table) -> None:
    frame = view.to_pandas(split_blocks=True)
    assert {name: address(frame[name]) == values(view, name) for name in frame if name != "s"} == {
        "i": True,
        "f": True,
        "t": True,
        "n": False,
        "b": False,
    }
    plain = view.to_pandas()
    assert address(plain["i"]) != values(view, "i")


@needs_pandas_3
def test_strings_are_not_copied(view: pa.Table) -> None:
    frame = view.to_pandas(split_blocks=True)
    assert pa.table(frame[["s"]])["s"].chunk(0).buffers()[-1].address == values(view, "s")


def test_a_write_in_place_is_an_error_and_a_copy_can_be_written(view: pa.Table) -> None:
    before = view.to_pydict()
    frame = view.select(["i", "f"]).to_pandas(split_blocks=True)
    with pytest.raises(ValueError, match="read-only"):
        frame.loc[0, "i"] = 7
    own = view.select(["i", "f"]).to_pandas(split_blocks=True).copy()
    own.loc[0, "i"] = 7
    assert own["i"][0] == 7
    assert view.to_pydict() == before


@needs_pandas_3
def test_a_sum_in_place_makes_a_copy(view: pa.Table) -> None:
    frame = view.select(["i"]).to_pandas(split_blocks=True)
    frame["i"] += 1
    assert frame["i"][0] == 1
    assert view["i"][0].as_py() == 0
