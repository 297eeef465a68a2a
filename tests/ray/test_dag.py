"""Ray's own DAGs under `zerrow_ray.dag.execute`; Ray's own executor is the oracle.

The file is long because all that Ray's own executor does is compared.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.dag import InputNode, MultiOutputNode

import zerrow_ray
from tests.helpers.capabilities import needs_graphviz, needs_sandboxes
from tests.helpers.rays import total
from tests.helpers.waiting import eventually
from zerrow_ray import dag
from zerrow_ray.dag.stores import shared_budget
from zerrow_ray.jobs import jobs_that_run_dags
from zerrow_ray.session import current_session
from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.sandbox import SandboxOptions

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 1_000_000
NBYTES = 8 * ROWS


@ray.remote
def make(n: int = 0) -> pa.Table:
    return pa.table({"k": pc.add(pa.array(np.arange(ROWS)), n)})


@ray.remote
def add_column(left: pa.Table, right: pa.Table) -> pa.Table:
    return left.append_column(f"c{left.num_columns}", pc.add(left["k"], right["k"]))


@ray.remote
def count(tables: list[ray.ObjectRef]) -> int:
    return sum(table.num_rows for table in ray.get(tables))


@ray.remote(num_returns=2)
def halves(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    return table.slice(0, ROWS // 2), table.slice(ROWS // 2)


@ray.remote
class Counter:
    def __init__(self, start: int) -> None:
        self.rows = start

    def add(self, table: pa.Table) -> int:
        self.rows += table.num_rows
        return self.rows


def by_ray(node, *args, **kwargs):
    return ray.get(execute_by_ray(node, *args, **kwargs))


def execute_by_ray(node, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        return node.execute(*args, **kwargs)


def test_results_are_those_of_rays_executor() -> None:
    with InputNode() as given:
        first, second = make.bind(given[0]), make.bind(given.other)
        joined = add_column.bind(add_column.bind(first, second), first)
        node = MultiOutputNode([joined, count.bind([first, joined]), first])
    ours = ray.get(dag.execute(node, 3, other=4))
    assert ours == by_ray(node, 3, other=4)


def test_actors_are_called_in_order() -> None:
    counter = Counter.bind(5)
    calls = [counter.add.bind(make.bind(n)) for n in range(3)]
    ours = ray.get(dag.execute(MultiOutputNode(calls)))
    assert ours == [5 + ROWS, 5 + 2 * ROWS, 5 + 3 * ROWS]


def test_actors_that_run_already_are_called() -> None:
    counter = Counter.remote(1)
    assert ray.get(dag.execute(counter.add.bind(make.bind()))) == 1 + ROWS


def test_a_single_input_that_is_a_table_is_stored_once() -> None:
    table = pa.table({"k": pc.add(pa.array(np.arange(ROWS)), 1)})
    with InputNode() as given:
        node = MultiOutputNode([add_column.bind(given, given), add_column.bind(given, given)])
    before = total()["bytes_stored"]
    refs = dag.execute(node, table)
    assert total()["bytes_stored"] - before <= 3 * NBYTES * 1.1
    assert ray.get(refs)[0] == add_column._function(table, table)


def test_results_that_nobody_asks_for_go_at_once() -> None:
    node = make.bind()
    for _ in range(6):
        node = fresh.bind(node)
    before = total()["bytes_stored"]
    ref, explanation = dag.execute(node, explain=True)
    eventually(
        lambda: total()["bytes_stored"] - before <= NBYTES * 1.1, "only the last table is held"
    )
    assert ray.get(ref).num_rows == ROWS
    assert [run.released is not None for run in explanation.runs] == [True] * 6 + [False]


@ray.remote
def see_freed(table: pa.Table, before: int) -> int:
    """Return the rows once the stores hold no more than this step's input."""
    eventually(
        lambda: total()["bytes_stored"] - before <= NBYTES * 1.1, "earlier results are let go"
    )
    return table.num_rows


def test_results_go_while_the_dag_runs() -> None:
    node = make.bind()
    for _ in range(3):
        node = fresh.bind(node)
    before = total()["bytes_stored"]
    assert ray.get(dag.execute(see_freed.bind(node, before))) == ROWS


def test_progress_is_shown_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    dag.execute(count.bind([fresh.bind(make.bind())]), progress=True)
    shown = capsys.readouterr().err
    assert "0/3" in shown
    assert "3/3" in shown
    dag.execute(make.bind(), progress=False)
    assert capsys.readouterr().err == ""


@ray.remote
def fresh(table: pa.Table) -> pa.Table:
    return pa.table({"k": pc.add(table["k"], 1)})


def test_steps_wait_for_memory() -> None:
    # Once, so that what they need is known.
    branches = [fresh.bind(make.bind(n)) for n in range(4)]
    dag.execute(MultiOutputNode(branches))
    ends = MultiOutputNode([count.bind([branch]) for branch in branches])
    refs, explanation = dag.execute(ends, explain=True, memory=3 * NBYTES)
    assert ray.get(refs) == [ROWS] * 4
    makes = [run for run in explanation.runs if run.name.startswith("make")]
    counts = [run for run in explanation.runs if run.name.startswith("count")]
    # The last branch begins when an earlier one has ended and let go of its tables.
    assert max(run.submitted for run in makes) >= min(run.finished for run in counts)


def test_what_is_explained_is_what_happened() -> None:
    first = make.bind()
    _, explanation = dag.execute(add_column.bind(first, make.bind(1)), explain=True)
    rows = {row["name"]: row for row in explanation.rows()}
    assert rows.keys() == {"make", "make#2", "add_column"}
    assert NBYTES <= rows["make"]["new_bytes"] <= NBYTES * 1.1
    assert NBYTES <= rows["add_column"]["new_bytes"] <= NBYTES * 1.1
    assert 2 * NBYTES <= rows["add_column"]["result_bytes"] <= 2 * NBYTES * 1.1
    assert rows["add_column"]["peak_bytes"] >= NBYTES
    assert rows["add_column"]["worker"] != os.getpid()
    assert [line.split()[0] for line in str(explanation).splitlines()] == ["step", *rows]
    source = explanation.dot()
    assert source.startswith("digraph")
    assert source.count("->") == 2
    assert source.count("label=") == 3


@needs_graphviz
def test_a_drawing_has_all_steps(tmp_path: Path) -> None:
    _, explanation = dag.execute(add_column.bind(make.bind(), make.bind(1)), explain=True)
    explanation.save_svg(tmp_path / "dag.svg")
    drawing = (tmp_path / "dag.svg").read_text()
    assert drawing.count('class="node"') == 3
    assert drawing.count('class="edge"') == 2
    assert "add_column" in drawing


def test_an_error_names_the_step_and_leaves_nothing() -> None:
    @ray.remote
    def fail(table: pa.Table) -> None:
        raise LookupError("no such thing")

    before = total()["bytes_stored"]
    with pytest.raises(dag.StepError, match=r"step 'fail' failed: no such thing") as caught:
        dag.execute(add_column.bind(fail.bind(make.bind()), make.bind()))
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.step == "fail"
    del caught
    eventually(lambda: total()["bytes_stored"] <= before, "the other steps' results are freed")


def test_an_actor_that_fails_is_named() -> None:
    @ray.remote
    class Broken:
        def call(self, table: pa.Table) -> None:
            raise LookupError("not here")

    with pytest.raises(dag.StepError, match=r"step 'Broken.call' failed"):
        dag.execute(Broken.bind().call.bind(make.bind()))


def test_steps_are_retried_as_ray_does(tmp_path: Path) -> None:
    @ray.remote(max_retries=3, retry_exceptions=[ConnectionError])
    def flaky(table: pa.Table) -> int:
        with open(tmp_path / "runs", "a") as file:
            file.write("x")
        if len((tmp_path / "runs").read_text()) < 3:
            raise ConnectionError
        return table.num_rows

    assert ray.get(dag.execute(flaky.bind(make.bind()))) == ROWS
    assert (tmp_path / "runs").read_text() == "xxx"


@ray.remote
def pair(n: int) -> tuple[int, int]:
    return n, n + 1


@ray.remote
def series(n: int):
    yield n
    yield n + 1


@ray.remote
def kind_of(value) -> str:
    return type(value).__name__


deprecated = pytest.mark.filterwarnings("ignore:num_returns='dynamic' is deprecated")


@deprecated
@pytest.mark.parametrize(
    ("function", "returns"),
    [
        *((pair, returns) for returns in (None, 0, 1, 2, 3)),
        *((series, returns) for returns in (None, 0, 1, 2, 3, "dynamic", "streaming")),
    ],
)
def test_num_returns_means_what_it_means_to_ray(function, returns) -> None:
    node = function.options(num_returns=returns).bind(1)
    assert outcome(dag.execute, node) == outcome(execute_by_ray, node)


@deprecated
@pytest.mark.parametrize(("function", "returns"), [(pair, 0), (pair, 2), (series, "dynamic")])
def test_a_step_takes_what_ray_passes_on(function, returns) -> None:
    node = kind_of.bind(function.options(num_returns=returns).bind(1))
    assert outcome(dag.execute, node) == outcome(execute_by_ray, node)


def outcome(execute, node):
    """What running a node gives, with values in the place of references, or its error's text."""
    try:
        return described(execute(node))
    except dag.StepError as error:
        return str(error.__cause__.cause)
    except ray.exceptions.RayTaskError as error:
        return str(error.cause)


def described(value):
    if isinstance(value, ray.ObjectRef):
        return described(ray.get(value))
    if isinstance(value, list):
        return [described(each) for each in value]
    if isinstance(value, ray.ObjectRefGenerator | ray.DynamicObjectRefGenerator):
        return [type(value).__name__, *map(described, value)]
    return value


def test_several_results_and_generators() -> None:
    @ray.remote
    def numbers():
        yield 0
        yield 1
        yield 2

    @ray.remote
    def first(generator) -> int:
        return ray.get(next(iter(generator)))

    both = ray.get(dag.execute(halves.bind(make.bind())))
    assert [table.num_rows for table in both] == [ROWS // 2, ROWS // 2]
    values = [ray.get(ref) for ref in dag.execute(numbers.bind())]
    assert values == [0, 1, 2]


def test_control_c_cancels_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @ray.remote(max_retries=0)
    def endless() -> None:
        (tmp_path / "started").touch()
        try:
            while True:
                time.sleep(0.05)
        finally:
            (tmp_path / "ended").touch()

    wait = ray.wait

    def interrupted(*args, **kwargs):
        if (tmp_path / "started").exists() and not (tmp_path / "interrupted").exists():
            (tmp_path / "interrupted").touch()
            raise KeyboardInterrupt
        return wait(*args, **kwargs)

    monkeypatch.setattr(ray, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dag.execute(endless.bind())
    eventually((tmp_path / "ended").exists, "the step has been cancelled")


def test_dags_at_once_share_the_memory() -> None:
    outcomes = []

    def run(n: int) -> None:
        branches = [fresh.bind(make.bind(n + i)) for i in range(3)]
        node = MultiOutputNode([count.bind([branch]) for branch in branches])
        outcomes.append(ray.get(dag.execute(node)))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[ROWS] * 3] * 3


ANOTHER_DRIVER = """
import sys, time, ray, zerrow_ray
zerrow_ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote
def sleep():
    time.sleep(60)
zerrow_ray.dag.execute(sleep.bind())
"""


def test_drivers_at_once_have_equal_parts() -> None:
    budget = sum(node.budget for node in zerrow_ray.stats().nodes.values())
    half = int(HIGH_WATERMARK * budget) // 2
    address = ray.get_runtime_context().gcs_address
    account = shared_budget.open()
    try:
        assert account.excess(half + NBYTES) <= 0
        with subprocess.Popen([sys.executable, "-c", ANOTHER_DRIVER, address]) as other:
            eventually(lambda: jobs_that_run_dags() == 2, "another driver runs a DAG")
            eventually(lambda: account.excess(half + NBYTES) > 0, "it has its part")
            assert account.excess(half) <= 0
            other.kill()
        eventually(lambda: account.excess(half + NBYTES) <= 0, "its part is free again")
    finally:
        account.close()
    assert jobs_that_run_dags() == 0


@pytest.mark.parametrize("eviction", ["adaptive", "rollback", "swap", "lru", "none"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 0.1])
def test_results_are_the_same_short_of_memory(eviction: str, share: float) -> None:
    def build():
        node = make.bind(0)
        for n in range(1, 4):
            node = add_column.bind(add_column.bind(make.bind(n), fresh.bind(make.bind(n))), node)
        return node

    memory = int(share * 10 * NBYTES)
    ref, explanation = dag.execute(build(), explain=True, eviction=eviction, memory=memory)
    assert ray.get(ref) == by_ray(build())
    if eviction in ("swap", "none"):
        assert all(run.rollbacks == 0 for run in explanation.runs)


def test_a_result_in_the_way_is_rolled_back() -> None:
    # Three branches, deep on the right: the results on the left wait.
    def build():
        return add_column.bind(
            make.bind(1), add_column.bind(make.bind(2), fresh.bind(make.bind(3)))
        )

    dag.execute(build())
    ref, explanation = dag.execute(
        build(), explain=True, eviction="rollback", memory=int(2.2 * NBYTES)
    )
    assert ray.get(ref) == by_ray(build())
    assert sum(run.rollbacks for run in explanation.runs) > 0
    assert all(run.expected_again is not None for run in explanation.runs if run.rollbacks)
    # Both the estimate and the outcome are among the store's evictions.
    again = {run.name: run for run in explanation.runs if run.rollbacks}
    recorded = {r.name: r for r in current_session().client.evictions() if r.way == "rollback"}
    assert again.keys() <= recorded.keys()
    for name, run in again.items():
        record = recorded[name]
        assert (record.expected, record.seconds) == (run.expected_again, run.seconds)
        assert (record.nbytes, record.returned) == (run.new_bytes, True)


def test_what_makes_room_is_written_while_steps_run() -> None:
    def spilled() -> int:
        return sum(e.nbytes for e in current_session().client.evictions() if e.way == "spill")

    @ray.remote
    def make_slowly(n: int) -> pa.Table:
        eventually(lambda: spilled() > before, "the table before is on disk")
        return pa.table({"k": pc.add(pa.array(np.arange(ROWS)), n)})

    @ray.remote
    def join(before: int, table: pa.Table) -> int:
        return before + int(pc.sum(table["k"]).as_py())

    def build(later):
        tables = [f.options(memory=2 * NBYTES).bind(n) for n, f in enumerate((make, later))]
        node = 0
        for table in (*tables, *tables):
            node = join.bind(node, table)
        return node

    before = spilled()
    expected = ray.get(dag.execute(build(make)))
    ref, explanation = dag.execute(
        build(make_slowly), explain=True, eviction="swap", memory=int(2.2 * NBYTES)
    )
    assert ray.get(ref) == expected
    assert [run.left_to_disk for run in explanation.runs].count(True) == 1


@pytest.mark.parametrize("eviction", ["adaptive", "rollback"])
def test_functions_of_all_kinds_short_of_memory(eviction: str, tmp_path: Path) -> None:
    @ray.remote
    def slow_and_small(n: int) -> pa.Table:
        time.sleep(0.2)
        return pa.table({"k": pc.add(pa.array(np.arange(ROWS // 100)), n)})

    @ray.remote
    def quick_and_big(n: int) -> pa.Table:
        return pa.table({"k": pc.add(pa.array(np.arange(2 * ROWS)), n)})

    @ray.remote
    def of_any_duration(n: int) -> pa.Table:
        time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
        return pa.table({"k": pc.add(pa.array(np.arange(ROWS)), n)})

    @ray.remote(retry_exceptions=True, max_retries=3)
    def failing_at_first(n: int) -> pa.Table:
        if not (tmp_path / str(n)).exists():
            (tmp_path / str(n)).touch()
            raise ValueError("not yet")
        return pa.table({"k": pc.add(pa.array(np.arange(ROWS)), n)})

    @ray.remote
    def join(before: int, table: pa.Table) -> int:
        return before + int(pc.sum(table["k"]).as_py())

    kinds = (slow_and_small, quick_and_big, of_any_duration, failing_at_first)
    sizes = (ROWS // 100, 2 * ROWS, ROWS, ROWS)

    def build():
        tables = [kind.bind(n) for n, kind in enumerate(kinds * 2)]
        node = 0
        for table in (*tables, *tables):
            node = join.bind(node, table)
        return node

    expected = 2 * sum(rows * (rows - 1) // 2 + n * rows for n, rows in enumerate(sizes * 2))
    for share in (1.0, 0.5, 0.25, 0.1):
        memory = int(share * 8 * sum(sizes * 2))
        assert ray.get(dag.execute(build(), eviction=eviction, memory=memory)) == expected


def test_a_worker_that_dies_while_a_result_is_made_again(tmp_path: Path) -> None:
    @ray.remote(max_retries=3)
    def dying_the_second_time(n: int) -> pa.Table:
        runs = tmp_path / str(n)
        runs.write_text(runs.read_text() + "." if runs.exists() else ".")
        if runs.read_text() == "..":
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"k": pc.add(pa.array(np.arange(ROWS)), n)})

    def build():
        return add_column.bind(
            dying_the_second_time.bind(1),
            add_column.bind(dying_the_second_time.bind(2), fresh.bind(make.bind(3))),
        )

    ref, explanation = dag.execute(
        build(), explain=True, eviction="rollback", memory=int(2.2 * NBYTES)
    )
    table = ray.get(ref)
    assert sum(run.rollbacks for run in explanation.runs) > 0
    assert max(len(runs.read_text()) for runs in tmp_path.iterdir()) > 2
    assert table["k"].equals(pa.chunked_array([np.arange(ROWS) + 1]))
    assert pc.sum(table["c1"]).as_py() == ROWS * (ROWS - 1) + 3 * ROWS


def test_the_store_is_killed_while_a_result_is_made_again(tmp_path: Path) -> None:
    @ray.remote
    def killing_the_store_the_second_time(n: int) -> pa.Table:
        runs = tmp_path / str(n)
        runs.write_text(runs.read_text() + "." if runs.exists() else ".")
        made = make._function(n)
        if runs.read_text() == "..":
            os.kill(current_session().client.stats().pid, signal.SIGKILL)
        return made

    def build():
        return add_column.bind(
            killing_the_store_the_second_time.bind(1),
            add_column.bind(killing_the_store_the_second_time.bind(2), fresh.bind(make.bind(3))),
        )

    before = current_session().client.stats().pid
    ref, explanation = dag.execute(
        build(), explain=True, eviction="rollback", memory=int(2.2 * NBYTES)
    )
    assert sum(run.rollbacks for run in explanation.runs) > 0
    assert current_session().client.stats().pid != before
    first, second, third = make._function(1), make._function(2), make._function(3)
    expected = add_column._function(second, fresh._function(third))
    assert ray.get(ref) == add_column._function(first, expected)


class Loss:
    """Deletes what the DAG's steps have stored, as if a disk had lost it; `times` times."""

    def __init__(self, path: Path, times: int) -> None:
        @ray.remote(max_retries=0)
        def lose(*after: int) -> int:
            runs = len(list(path.iterdir()))
            if runs < times:
                (path / str(runs)).touch()
                client = current_session().client
                ids = [info.object_id for info in client.list() if info.nbytes >= NBYTES]
                client.delete(ids, missing_ok=True)  # some end by themselves, of earlier tests
            return 0

        self.lose = lose


@ray.remote
def count_after(table: pa.Table, other: pa.Table, after: int) -> int:
    return table.num_rows + other.num_rows


@ray.remote
def first_value(table: pa.Table) -> int:
    return int(table["k"][0].as_py())


def test_what_is_lost_is_made_again(tmp_path: Path) -> None:
    tables = [make.bind(1), fresh.bind(make.bind(2))]
    lost = Loss(tmp_path, 1).lose.bind(*map(first_value.bind, tables))
    node = MultiOutputNode([count_after.bind(*tables, lost), count_after.bind(*tables, lost)])
    refs, explanation = dag.execute(node, explain=True)
    assert ray.get(refs) == [2 * ROWS] * 2
    assert len(list(tmp_path.iterdir())) == 1
    assert sum(run.rollbacks for run in explanation.runs) >= 2


def test_what_is_lost_and_must_not_run_twice_is_an_error(tmp_path: Path) -> None:
    table = make.options(max_retries=0).bind(1)
    lost = Loss(tmp_path, 1).lose.bind(first_value.bind(table))
    with pytest.raises(dag.StepError, match="count_after"):
        dag.execute(count_after.bind(table, table, lost))


def test_what_must_not_run_twice_is_not_rolled_back() -> None:
    once = make.options(max_retries=0)

    def build():
        return add_column.bind(
            once.bind(1), add_column.bind(once.bind(2), fresh.bind(once.bind(3)))
        )

    _, explanation = dag.execute(build(), explain=True, eviction="rollback", memory=NBYTES)
    assert all(run.rollbacks == 0 for run in explanation.runs if run.name.startswith("make"))


@needs_sandboxes
def test_steps_run_confined_when_asked() -> None:
    @ray.remote
    def look(table: pa.Table) -> list:
        return [table.num_rows, os.path.exists("/tmp/ray"), sorted(os.environ)]

    def build(end):
        return end.bind(make.bind(3))

    inside = SandboxOptions(python_path=(str(Path(__file__).parents[2]),))
    rows, ray_there, names = ray.get(dag.execute(build(look), sandbox=inside))
    assert rows == ROWS
    assert not ray_there
    assert not [name for name in names if "RAY" in name]
    assert ray.get(dag.execute(build(fresh), sandbox=inside)) == by_ray(build(fresh))


def test_what_cannot_be_confined_is_refused() -> None:
    with pytest.raises(TypeError, match="'Counter' is not a plain function"):
        dag.execute(Counter.bind(0).add.bind(make.bind()), sandbox=SandboxOptions())


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="an eviction policy is one of"):
        dag.execute(make.bind(), eviction="magic")


def test_what_is_no_dag_is_refused() -> None:
    with pytest.raises(TypeError, match="not a node of a Ray DAG"):
        dag.execute(make)
