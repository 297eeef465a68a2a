"""What a sandboxed function returns is what it would return unconfined."""

import datetime
import decimal
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, reject, settings

from tests.helpers import arrow_strategies
from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.examples import EXAMPLES
from tests.helpers.pyarrows import PYARROW, breaks_slices, through_arrow_ipc
from zerrow_store import sandbox
from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.errors import SandboxError
from zerrow_store.sandbox import inputs

pytestmark = needs_sandboxes


def _same(value: Any) -> Any:
    return value


SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _as_table(value: Any) -> pa.Table:
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    return value if isinstance(value, pa.Table) else pa.table({"": value})


@pytest.fixture(params=["small data goes along", "all by reference"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "all by reference":
        monkeypatch.setattr(inputs, "needs_segment", lambda value: isinstance(value, ARROW_DATA))


def _check(value: Any) -> None:
    value.validate(full=True)
    if PYARROW <= 19 and breaks_slices(through_arrow_ipc(_as_table(value))):
        reject()  # a sandbox has a copy by Arrow's IPC
    result = sandbox.run(_same, value)
    assert type(result) is type(value)
    if isinstance(value, pa.Table | pa.RecordBatch):
        assert result.schema.equals(value.schema, check_metadata=True)
    else:
        assert result.type == value.type
    result.validate(full=True)
    assert result.equals(value)


@pytest.mark.usefixtures("_both_ways")
@SETTINGS
@given(value=arrow_strategies.tables())
def test_tables_of_every_type(value: pa.Table) -> None:
    _check(value)


@pytest.mark.usefixtures("_both_ways")
@SETTINGS
@given(value=arrow_strategies.record_batches())
def test_record_batches_of_every_type(value: pa.RecordBatch) -> None:
    _check(value)


@pytest.mark.usefixtures("_both_ways")
@SETTINGS
@given(value=arrow_strategies.chunked_arrays() | arrow_strategies.arrays())
def test_arrays_of_every_type(value: pa.ChunkedArray | pa.Array) -> None:
    _check(value)


def _outcome(function: Any, array: pa.Array) -> Any:
    """What comes of a call, in or out of a sandbox: the result, or the kind of error."""
    try:
        return function(array)
    except SandboxError as error:
        return str(error.type_name).rpartition(".")[2]
    except (pa.ArrowException, TypeError) as error:
        return type(error).__qualname__


COMPUTATIONS = [
    lambda array: array.take(pa.array(range(len(array))[::-3])),
    lambda array: pa.concat_arrays([array[5:], array[:3]]),
    lambda array: pc.fill_null_backward(array),
    lambda array: pc.drop_null(array),
    lambda array: pa.table({"x": array, "n": range(len(array))}).filter(pc.field("n") > 7),
    lambda array: pc.value_counts(array),
    lambda array: array.cast(pa.string()),
    lambda array: pa.StructArray.from_arrays([array, array[::1]], ["a", "b"]),
    lambda array: array.to_pylist(),
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_computed_like_outside_from_every_type(name: str) -> None:
    """Long arrays, that go by reference."""
    array = EXAMPLES[name].slice(1)
    while array.get_total_buffer_size() < 32 << 10 and len(array) < 1 << 16:
        array = pa.concat_arrays([array, array])
    for compute in COMPUTATIONS:
        outside, inside = _outcome(compute, array), _outcome(_in_sandbox(compute), array)
        assert type(inside) is type(outside)
        assert inside == outside


def _in_sandbox(compute: Any) -> Any:
    return lambda array: sandbox.run(compute, array)


def test_kinds_of_arrow_data(table: pa.Table) -> None:
    for value in (table, table.to_batches()[0], table["x"], table["x"].chunk(0), table[:0]):
        result = sandbox.run(_same, value)
        assert type(result) is type(value)
        assert result.equals(value)
    sliced = table[7:20_011]
    assert sandbox.run(_same, sliced).equals(sliced)


def test_computed_like_outside(table: pa.Table) -> None:
    def compute(t: pa.Table, k: int) -> pa.Table:
        words = pc.cast(t["x"], pa.string())
        added = t.append_column("z", pc.add(t["y"], k)).append_column("w", words)
        return added.filter(pc.greater(added["z"], 10)).group_by("w").aggregate([("z", "sum")])

    expected = compute(table, 3).sort_by("w")
    assert sandbox.run(compute, table, keywords={"k": 3}).sort_by("w").equals(expected)


def test_plain_values() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    value = {
        "a": [None, True, 1, -(2**63), 2**64 - 1, 2**200, 1.5, float("inf"), "é\0", b"\xff", 1j],
        1: (1, [2, (3,)], {4, 5}, frozenset({6}), bytearray(b"x")),
        (1, 2): {"nested": {"deep": ()}},
        "t": [datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone), datetime.date(2026, 1, 2)],
        "u": [datetime.time(1, 2), datetime.timedelta(-1, 2, 3), decimal.Decimal("1.50")],
    }
    result = sandbox.run(_same, value)
    assert result == value
    assert repr(result) == repr(value)


def test_tables_nested_in_containers(table: pa.Table) -> None:
    result = sandbox.run(lambda t: {"both": [t, (t["x"], 1)], "sum": pc.sum(t["x"]).as_py()}, table)
    assert result["both"][0].equals(table)
    assert result["both"][1][0].equals(table["x"])
    assert result["sum"] == pc.sum(table["x"]).as_py()


@pytest.mark.parametrize("make", [object, lambda: open, lambda: np.int64(1), lambda: [object()]])
def test_what_cannot_be_returned_is_named(make: Any) -> None:
    with pytest.raises(SandboxError, match=r"cannot return .*only None, bool.*Table"):
        sandbox.run(make)


def test_an_exception_comes_as_text() -> None:
    def fails() -> None:
        raise LookupError("not here")

    with pytest.raises(SandboxError, match="LookupError: not here") as caught:
        sandbox.run(fails)
    assert caught.value.type_name == "LookupError"
    assert "in fails" in caught.value.traceback
    assert "in fails" in str(caught.value)


def test_an_exit_is_an_error_and_a_crash_too() -> None:
    with pytest.raises(SandboxError, match="SystemExit"):
        sandbox.run(sys.exit, 3)

    def crash() -> None:
        import ctypes

        ctypes.string_at(0)

    with pytest.raises(SandboxError, match="crashed"):
        sandbox.run(crash)
    assert sandbox.run(_same, 1) == 1


def test_output_goes_to_this_process(capfd: pytest.CaptureFixture[str]) -> None:
    def speak() -> None:
        import os

        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.system("echo from a child")
        print("x" * 300_000)

    sandbox.run(speak)
    said = capfd.readouterr()
    assert "to stdout" in said.out
    assert "from a child" in said.out
    assert "x" * 300_000 in said.out
    assert "to stderr" in said.err


def test_an_input_is_copied_once_and_an_output_never(table: pa.Table) -> None:
    before = sandbox.stats()
    first = sandbox.run(lambda t: pa.table({"z": pc.add(t["x"], 1)}), table)
    copied = sandbox.stats().bytes_copied - before.bytes_copied
    assert table.nbytes <= copied <= table.nbytes + 4096
    again = sandbox.run(lambda t: pa.table({"z": pc.add(t["x"], 1)}), table)
    chained = sandbox.run(lambda t: pa.table({"w": pc.subtract(t["z"], 1)}), first)
    assert sandbox.stats().bytes_copied - before.bytes_copied == copied
    assert again.equals(first)
    assert chained["w"].equals(table["x"])


def test_numpy_memory_that_changed_is_seen() -> None:
    values = np.arange(100_000)
    table = pa.table({"x": values})
    assert sandbox.run(lambda t: pc.sum(t["x"]).as_py(), table) == values.sum()
    values[0] = 77
    assert sandbox.run(lambda t: t["x"][0].as_py(), table) == 77


def test_a_function_of_a_module_that_only_the_host_has(tmp_path: Path) -> None:
    (tmp_path / "host_only.py").write_text(
        textwrap.dedent("""
        FACTOR = 3
        def helper(x): return x * FACTOR
        def function(x): return helper(x) + 1
    """)
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import host_only  # type: ignore[import-not-found]

        assert sandbox.run(host_only.function, 5) == 16

        def importing() -> int:
            import host_only

            return int(host_only.function(1))

        with pytest.raises(SandboxError, match="ModuleNotFoundError"):
            sandbox.run(importing)
        assert sandbox.run(importing, python_path=[tmp_path]) == 4
    finally:
        sys.path.remove(str(tmp_path))
