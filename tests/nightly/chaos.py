"""Random DAGs of tasks over tables, while everything around them is killed.

    python -m tests.nightly.chaos [--seconds 120] [--seed 0] [--nodes 0] [--plain]

Rounds of a few steps each (tasks, actor calls, generators, puts; tables, slices, containers) are
submitted, and their results read, some of them again in later rounds. Meanwhile workers, the
store's server, its supervisors, or any two of these three are killed with SIGKILL; with `--nodes`
beside the driver's own, over which the tasks are spread, so is a node with all that is on it, and
another one comes in its place. Everything may be retried, so plain Ray gives no error: `--plain`
shows it, without the store's processes to kill. The sums of
all results are compared with those of the same functions called here. Prints rounds, kills, wrong
results, errors, and what the stores still hold when the last reference is gone, as JSON; exits 1
unless there is none of the last three. A seed decides on the DAGs and on whom to kill in which
order; what that meets is not repeatable.
"""

import argparse
import collections
import contextlib
import functools
import gc
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

import zerrow_ray
from tests.helpers.processes import names_of
from tests.helpers.rays import RAY_OPTIONS, store_pids, supervisor_pids
from zerrow_ray.ray_compat import raylet_pid
from zerrow_ray.session import current_session
from zerrow_store.errors import StoreUnavailableError, ZerrowError

ROWS = 600_000
"""4.8 MB for each column: by reference, but for what is cut from it."""

_KEPT = 6
_GET_SECONDS = 120
_LEFT_SECONDS = 60
_BETWEEN_KILLS = (0.5, 3.0)
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass
class Report:
    """What happened. left: what the stores held in the end, with all references gone."""

    seed: int
    rounds: int = 0
    reads: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return not self.wrong and not self.errors and not any(self.left.values())


def make(number: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(np.arange(ROWS)), number)})


def add(left: Any, right: Any) -> pa.Table:
    left, right = table_in(left), table_in(right)
    rows = min(left.num_rows, right.num_rows)
    return pa.table({"x": pc.add(left["x"].slice(0, rows), right["x"].slice(0, rows))})


def append(left: Any, right: Any) -> pa.Table:
    left, right = table_in(left), table_in(right)
    rows = min(left.num_rows, right.num_rows)
    column = right["x"].slice(0, rows)
    return left.slice(0, rows).append_column(f"c{left.num_columns}", column)


def cut(value: Any) -> pa.Table:
    table = table_in(value)
    return table.slice(table.num_rows // 10)


def wrap(value: Any) -> dict[str, Any]:
    table = table_in(value)
    return {"rows": table.num_rows, "tables": [table]}


def same(value: Any) -> Any:
    return value


def table_in(value: Any) -> pa.Table:
    return value["tables"][0] if isinstance(value, dict) else value


def sums(value: Any) -> list[int]:
    return [pc.sum(column).as_py() for column in table_in(value).columns]


class Keeper:
    def same(self, value: Any) -> Any:
        return value


def series(value: Any) -> Iterator[Any]:
    yield value
    yield cut(value)


STEPS: dict[str, Callable[..., Any]] = {
    "make": make,
    "put": make,
    "add": add,
    "append": append,
    "cut": cut,
    "wrap": wrap,
    "actor": same,
    "generator": cut,
}
_SOURCES = ("make", "put")
_TWO_INPUTS = ("add", "append")


@dataclass(frozen=True)
class Step:
    """A step of a round: what it does, with a number or with results of earlier steps."""

    what: str
    inputs: tuple[int, ...]


def plan(chance: random.Random) -> list[Step]:
    """A random DAG in the order of its steps."""
    steps = [Step(chance.choice(_SOURCES), (chance.randrange(1000),))]
    for _ in range(chance.randint(2, 7)):
        what = chance.choice(list(STEPS))
        count = 2 if what in _TWO_INPUTS else 1
        before = tuple(chance.randrange(len(steps)) for _ in range(count))
        steps.append(Step(what, (chance.randrange(1000),) if what in _SOURCES else before))
    return steps


def expected(steps: list[Step]) -> list[list[int]]:
    """The sums of all steps' results, by calling their functions here."""
    values: list[Any] = []
    for step in steps:
        given = step.inputs if step.what in _SOURCES else [values[i] for i in step.inputs]
        values.append(STEPS[step.what](*given))
    return [sums(value) for value in values]


class Submission:
    """The same through Ray."""

    def __init__(self) -> None:
        remote = ray.remote(max_retries=-1, scheduling_strategy="SPREAD")
        self._tasks = {what: remote(function) for what, function in STEPS.items()}
        self._series = remote(series)
        forever = {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}
        self._keeper = ray.remote(**forever)(Keeper).remote()

    def submit(self, steps: list[Step]) -> list[ray.ObjectRef]:
        """Return a reference for each step."""
        refs: list[ray.ObjectRef] = []
        for step in steps:
            given = step.inputs if step.what in _SOURCES else [refs[i] for i in step.inputs]
            refs.append(self._start(step.what, *given))
        return refs

    def _start(self, what: str, *given: Any) -> ray.ObjectRef:
        if what == "put":
            return ray.put(make(*given))
        if what == "actor":
            return self._keeper.same.remote(*given)
        if what == "generator":
            items = list(self._series.remote(*given))
            return items[min(1, len(items) - 1)]  # of a stream that fails, the last one says why
        return self._tasks[what].remote(*given)

    def close(self) -> None:
        ray.kill(self._keeper)


class Nodes:
    """The driver's node, and others that are killed and replaced."""

    def __init__(self, count: int) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        self._count = count
        self._others: list[Any] = []
        self.fill_up()
        self.options = {"address": self._cluster.address, "log_to_driver": False}

    def fill_up(self) -> None:
        """Have as many others as at first. For the main thread: Ray sets signal handlers."""
        while len(self._others) < self._count:
            self._others.append(self._cluster.add_node(num_cpus=1))

    def kill(self, chance: random.Random) -> bool:
        """Kill one of the others; False if there is none."""
        if not self._others:
            return False
        node = self._others.pop(chance.randrange(len(self._others)))
        self._cluster.remove_node(node, allow_graceful=False)
        return True


def targets(raylet: int) -> dict[str, list[tuple[int, ...]]]:
    """Pids of what may be killed at once, by kind. All that knows how these are found."""
    children = names_of([child.pid for child in psutil.Process(raylet).children()])
    named = {pid: name for pid, name in children.items() if name.startswith("ray::")}
    # Of its three processes any two may be killed; the last one has all that is stored.
    stores = [*store_pids(), *supervisor_pids()] if is_complete() else []
    return {
        "worker": [(pid,) for pid, name in named.items() if name not in _AGENTS],
        "store": [(pid,) for pid in stores],
        "two of the store": [*itertools.combinations(stores, 2)],
    }


def is_complete() -> bool:
    """Whether the store's server has two supervisors that know all that it does."""
    try:
        said = current_session().client.stats().supervisors
    except StoreUnavailableError:
        return False
    return said == len(supervisor_pids()) == 2  # it may not know yet that one was killed


class Killer:
    """A thread that kills one process after the other, for as long as it is entered."""

    def __init__(
        self, report: Report, kinds: list[str], chance: random.Random, nodes: Nodes | None
    ) -> None:
        self._report, self._kinds, self._chance, self._nodes = report, kinds, chance, nodes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer")
        self._raylet = raylet_pid()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._chance.uniform(*_BETWEEN_KILLS)):
                kind = self._chance.choice(self._kinds)
                if self._kill(kind):
                    self._report.kills[kind] = self._report.kills.get(kind, 0) + 1
        except Exception as error:  # nothing would be killed any more
            self._report.errors.append(f"the killer: {error!r}")

    def _kill(self, kind: str) -> bool:
        if kind == "node":
            assert self._nodes is not None
            return self._nodes.kill(self._chance)
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if found := targets(self._raylet)[kind]:
                for pid in self._chance.choice(found):
                    os.kill(pid, signal.SIGKILL)
                return True
        return False


class Reader:
    """Reads results, compares them, and keeps some to be read again."""

    def __init__(self, report: Report, chance: random.Random) -> None:
        self._report, self._chance = report, chance
        self._kept: collections.deque[tuple[Any, ...]] = collections.deque(maxlen=_KEPT)

    def read(self, what: str, ref: ray.ObjectRef, right: list[int]) -> None:
        try:
            value = ray.get(ref, timeout=_GET_SECONDS)
            self._compare(what, value, right)
        except (RayError, ZerrowError) as error:
            self._report.errors.append(f"{what}: {type(error).__name__}: {error}")
            return
        if self._chance.random() < 0.3:
            self._kept.append((what, ref, value, right))

    def read_again(self) -> None:
        """Read what was kept: the views, which nobody may have changed, and the objects."""
        for what, ref, view, right in list(self._kept):
            self._compare(f"view of {what}", view, right)
            if self._chance.random() < 0.3:
                self.read(f"{what} again", ref, right)

    def _compare(self, what: str, value: Any, right: list[int]) -> None:
        self._report.reads += 1
        if (got := sums(value)) != right:
            self._report.wrong.append(f"{what}: {got} instead of {right}")


def run(
    *,
    seconds: float,
    seed: int,
    kinds: list[str],
    nodes: Nodes | None,
    held: Callable[[], dict[str, int]],
) -> Report:
    """Run rounds for some time; `held` says what the stores hold."""
    report, chance = Report(seed), random.Random(seed)
    submission, reader = Submission(), Reader(report, chance)
    end = time.monotonic() + seconds
    with Killer(report, kinds, random.Random(seed + 1), nodes):
        while time.monotonic() < end:
            steps = plan(chance)
            refs, right = submission.submit(steps), expected(steps)
            for i in chance.sample(range(len(steps)), chance.randint(1, len(steps))):
                reader.read(f"round {report.rounds}, {steps[i].what}", refs[i], right[i])
            del refs
            reader.read_again()
            report.rounds += 1
            if nodes is not None:
                nodes.fill_up()
    del reader
    submission.close()
    report.left = _settled(held)
    return report


def _settled(held: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What is held once nothing is, or after a while."""
    end = time.monotonic() + _LEFT_SECONDS
    while True:
        gc.collect()
        left: dict[str, int] | None = None
        # A store that has just been killed may still be on its way back.
        with contextlib.suppress(RayError, ZerrowError):
            left = held()
        if left is not None and not any(left.values()):
            return left
        if time.monotonic() > end:
            return left if left is not None else {"unknown": 1}
        time.sleep(0.2)


def _held_by_stores() -> dict[str, int]:
    total = zerrow_ray.stats().total.as_dict()
    return {key: total[key] for key in ("objects", "bytes_stored", "bytes_spilled")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=0, help="besides the driver's")
    parser.add_argument("--plain", action="store_true", help="Ray without the plugin")
    given = parser.parse_args()
    os.environ.setdefault("ZERROW_THRESHOLD", "4MiB")  # between nodes it would be more
    nodes = Nodes(given.nodes) if given.nodes else None
    options = RAY_OPTIONS if nodes is None else nodes.options
    kinds = ["worker"] if nodes is None else ["worker", "node"]
    rounds = functools.partial(run, seconds=given.seconds, seed=given.seed, nodes=nodes)
    if given.plain:
        ray.init(**options)
        report = rounds(kinds=kinds, held=dict)
    else:
        zerrow_ray.init(**options)
        report = rounds(kinds=[*kinds, "store", "two of the store"], held=_held_by_stores)
    print(json.dumps(asdict(report)))
    ray.shutdown()
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
