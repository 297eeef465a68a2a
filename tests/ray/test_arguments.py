"""Arguments are looked at before submission: nothing is pickled twice, nothing is left behind."""

import gc

import numpy as np
import pandas as pd
import pytest
import ray

from tests.helpers.rays import ROWS, make, total
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("cluster")

CALLS = 100


def rows(value) -> int:
    if isinstance(value, list | tuple):
        return sum(map(rows, value))
    if isinstance(value, dict):
        return sum(map(rows, value.values()))
    return len(value) if hasattr(value, "__len__") else 0


@ray.remote
def task(*args, **kwargs):
    return rows(args) + rows(kwargs)


@ray.remote
class Actor:
    def __init__(self, *args, **kwargs):
        self.rows = rows(args) + rows(kwargs)

    def method(self, *args, **kwargs):
        return rows(args) + rows(kwargs)

    def seen(self):
        return self.rows


@pytest.fixture(scope="module")
def actor(cluster):
    return Actor.remote()


def construct(*args, **kwargs):
    return Actor.remote(*args, **kwargs).seen.remote()


def plasma_in_use() -> float:
    resources = ray.available_resources(), ray.cluster_resources()
    free, whole = (each.get("object_store_memory", 0.0) for each in resources)
    return whole - free


FORMS = ["task", "method", "constructor"]


def form(name, actor):
    return {"task": task.remote, "method": actor.method.remote, "constructor": construct}[name]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "keyword"])
def test_large_arguments_beside_a_table_are_freed(name, keyword, actor):
    submit = form(name, actor)
    calls = CALLS if name != "constructor" else 15
    table = make()
    large = np.zeros(ROWS)
    before = plasma_in_use()
    for _ in range(calls):
        got = submit(large, a=large, b=table) if keyword else submit(large, table)
        assert ray.get(got) == (3 if keyword else 2) * ROWS
    del got
    eventually(lambda: plasma_in_use() <= before + 2**20, "the arguments are freed")


@pytest.mark.parametrize("name", FORMS)
def test_arguments_that_cannot_be_serialized_leave_nothing(name, actor):
    submit = form(name, actor)
    table, large = make(), np.zeros(ROWS)
    before, stored = plasma_in_use(), total()["bytes_stored"]
    for _ in range(5):
        with pytest.raises(TypeError, match="Could not serialize the argument"):
            submit(large, [table, __import__("threading").Lock()])
        with pytest.raises(TypeError):
            submit(large, table, __import__("threading").Lock())
    gc.collect()
    eventually(lambda: plasma_in_use() <= before + 2**20, "the arguments are freed")
    eventually(lambda: total()["bytes_stored"] <= stored, "the table is freed")


class Counted:
    """Counts how often it is pickled; may be pickled once only."""

    def __init__(self, *, once: bool = False):
        self.pickled = 0
        self.once = once
        self.table = make()

    def __reduce__(self):
        self.pickled += 1
        assert not self.once or self.pickled == 1
        return len, (range(ROWS),)


@pytest.mark.parametrize("name", FORMS)
def test_an_argument_is_pickled_once(name, actor):
    @ray.remote
    def ignore(*args):
        return len(args)

    once = Counted(once=True)
    table = make()
    if name == "task":
        ray.get(ignore.remote(once, table))
    elif name == "method":
        ray.get(actor.method.remote([], [table]))
        once.__reduce__()
    else:
        ray.get(construct([table], {}))
        once.__reduce__()
    assert once.pickled == 1


class Swallows:
    """Its own error handling must not meet ours."""

    def __init__(self, table):
        self.table = table

    def __reduce__(self):
        try:
            state = ray.cloudpickle.dumps(self.table)
        except:  # noqa: E722  (what users write)
            state = None
        return _swallowed, (state,)


def _swallowed(state):
    return None if state is None else ray.cloudpickle.loads(state)


def test_user_code_sees_no_exception_of_ours():
    assert ray.get(task.remote(Swallows(make()))) == ROWS


class WithTable:
    def __init__(self):
        self.table = make()
        self.pickled = 0

    def __getstate__(self):
        self.pickled += 1
        return {"table": self.table}

    def __len__(self):
        return len(self.table)


def test_what_holds_a_table_is_pickled_once():
    value = WithTable()
    assert ray.get(task.remote(value)) == ROWS
    assert value.pickled == 1


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: [t],
        lambda t: (t, t),
        lambda t: {"a": [t]},
        lambda t: {"a": {"b": (1, t)}},
        lambda t: t.to_batches()[0],
        lambda t: t["x"],
        lambda t: t["x"].chunk(0),
        lambda t: pd.DataFrame({"x": t["x"].to_numpy() + 1}),
    ],
    ids=["table", "list", "tuple", "dict", "deep", "batch", "chunked", "array", "frame"],
)
def test_tables_in_plain_containers_go_by_reference(name, wrap, actor):
    value = wrap(make())
    before = total()
    got = form(name, actor)(value)
    assert ray.get(got) >= ROWS or name == "constructor"
    after = total()
    shared = after["bytes_shared"] + after["bytes_reshared"]
    assert shared >= before["bytes_shared"] + before["bytes_reshared"] + 8 * ROWS


@pytest.mark.parametrize("name", FORMS)
def test_frames_that_arrow_cannot_describe_take_rays_own_path(name, actor):
    import polars as pl

    frame = pl.DataFrame({"x": np.arange(ROWS)}).with_columns(pl.col("x").cast(pl.Int128))
    assert ray.get(form(name, actor)(frame)) == ROWS
    assert ray.get(form(name, actor)([frame])) == ROWS


def test_a_container_that_holds_itself_is_no_trouble():
    loop = [make()]
    loop.append(loop)

    @ray.remote
    def first(value):
        return len(value[0])

    assert ray.get(first.remote(loop)) == ROWS
