"""Results whose data is lost with its node are made again, also if their messages are elsewhere.

All of these are lost with the same node. `test_recovery_nodes` has those that more nodes matter to.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from tests.helpers.lost_results import expected, lose, made, nodes, result, sum_of
from tests.helpers.rays import on
from tests.helpers.waiting import eventually
from zerrow_ray import ray_recovery_compat


def made_twice(path):
    yield made(path)
    yield made(path)


def put():
    return [ray.put(made(os.devnull))]


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """Lost results by name, and how often each was made."""
    folder = tmp_path_factory.mktemp("runs")

    def results(name, count, **options):
        return [result(str(folder / name), **options)[-1] for _ in range(count)]

    def runs(name):
        return (folder / name).read_text()

    with nodes() as cluster:
        cluster.add("first")
        chains = {
            f"{use} {n}": result(str(folder / f"{use} {n}"), levels=n)
            for use in ("get", "argument")
            for n in (1, 2)
        }
        flat = {
            "many arguments": results("many arguments", 5),
            "many threads": results("many threads", 5),
            "await": results("await", 1),
            "no retries": results("no retries", 1, max_retries=0),
            "without": results("without", 1),
            "stream": list(on(ray.remote(made_twice), "first").remote(str(folder / "stream"))),
            "put": ray.get(on(ray.remote(put), "first").remote()),
        }
        flat |= {kind: results(kind, 2) for kind in ACTORS}
        refs = flat | chains
        lose(cluster, [ref for each in refs.values() for ref in each])
        yield SimpleNamespace(refs=refs, runs=runs)


@ray.remote(max_retries=1)
def total_of(*tables):
    return sum(map(sum_of, tables))


@pytest.mark.parametrize("levels", [1, 2])
def test_a_get_makes_a_lost_result_again(lost, levels):
    name = f"get {levels}"
    assert sum_of(ray.get(lost.refs[name][-1], timeout=240)) == expected(levels)
    assert lost.runs(name) == "xy"[:levels] * 2


@pytest.mark.parametrize("levels", [1, 2])
def test_a_lost_argument_is_made_again(lost, levels):
    name = f"argument {levels}"
    total = on(total_of, "head").remote(lost.refs[name][-1])
    assert ray.get(total, timeout=240) == expected(levels)
    assert lost.runs(name) == "xy"[:levels] * 2


def test_many_lost_arguments_take_one_retry(lost):
    total = on(total_of, "head").remote(*lost.refs["many arguments"])
    assert ray.get(total, timeout=240) == 5 * expected(1)
    assert lost.runs("many arguments") == "x" * 10


def test_many_are_got_at_once_and_by_several_threads(lost):
    refs = lost.refs["many threads"]
    with ThreadPoolExecutor(3) as pool:
        got = [pool.submit(ray.get, refs, timeout=240) for _ in range(3)]
    for each in got:
        assert sum(map(sum_of, each.result())) == 5 * expected(1)
    assert lost.runs("many threads") == "x" * 10


def test_an_item_of_a_stream_is_made_again(lost):
    for table in ray.get(lost.refs["stream"], timeout=240):
        assert sum_of(table) == expected(1)


@pytest.mark.parametrize("name", ["no retries", "put"])
def test_what_may_not_be_made_again_stays_lost(lost, name):
    (ref,) = lost.refs[name]
    for _ in range(2):
        with pytest.raises(ray.exceptions.ObjectLostError, match=ref.hex()):
            ray.get(ref, timeout=240)


def test_without_what_it_takes_of_ray_the_error_says_what_is_lost(lost, monkeypatch):
    monkeypatch.setattr(ray_recovery_compat, "lacking_to_tell", lambda: ["ray:something"])
    with pytest.raises(ray.exceptions.RaySystemError, match=r"it was on node \w+, which is gone"):
        ray.get(lost.refs["without"], timeout=240)
    assert lost.runs("without") == "x"


class Adder:
    def total_of(self, *tables):
        return sum(map(sum_of, tables))


class AsyncAdder:
    async def total_of(self, *tables):
        return sum(map(sum_of, tables))

    async def total_of_ref(self, refs):
        return sum_of(await refs[0])


ACTORS = {
    "actor": ray.remote(Adder),
    "actor with threads": ray.remote(max_concurrency=2)(Adder),
    "async actor": ray.remote(AsyncAdder),
}


@pytest.mark.parametrize("kind", ACTORS)
def test_an_actors_lost_arguments_are_made_again(lost, kind):
    actor = on(ACTORS[kind], "head").remote()
    for _ in range(2):
        total = actor.total_of.remote(*lost.refs[kind])
        assert ray.get(total, timeout=240) == 2 * expected(1)
    assert lost.runs(kind) == "xxxx"


def name_of_thread():
    return Path("/proc/thread-self/comm").read_text().strip()


class NameOfThread:
    """Becomes the name of the thread that deserializes it."""

    def __reduce__(self):
        return name_of_thread, ()


def test_the_thread_that_answers_an_await_is_known(lost):
    ref = ray.put(NameOfThread())
    assert ref.future().result(timeout=120) == ray_recovery_compat.RAYS_THREAD
    assert ray.get(ref) != ray_recovery_compat.RAYS_THREAD


def test_after_an_await_has_failed_it_is_made_again(lost):
    """The thread that answers an await may not wait for anything."""
    actor = on(ACTORS["async actor"], "head").remote()

    def is_lost():
        try:
            total = ray.get(actor.total_of_ref.remote(lost.refs["await"]), timeout=240)
        except ray.exceptions.RayTaskError as error:
            return "which is gone" in str(error)
        assert total == expected(1)
        return False

    assert is_lost()
    eventually(lambda: not is_lost(), "it is made again", seconds=240)
    assert lost.runs("await") == "xx"
