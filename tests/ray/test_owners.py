"""What tasks return belongs to the owner of the reference that carries it, and goes with it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pyarrow as pa
import pytest
import ray

from tests.helpers.rays import make, total
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("cluster")


def first(table: pa.Table) -> int:
    value: int = table["x"][0].as_py()
    return value


@ray.remote
def one(n: int) -> pa.Table:
    return make(n)


@ray.remote(num_returns=3)
def several():
    return make(1), [make(2), "text", make(3)], 4


@ray.remote
def same(value):
    return value


@ray.remote
class Actor:
    def one(self, n):
        return make(n)

    async def none(self):
        pass


@ray.remote
class AsyncActor:
    async def one(self, n):
        return make(n)


@pytest.fixture
def nothing_is_left():
    eventually(lambda: total()["objects"] == 0, "what earlier tests dropped is gone")
    yield
    eventually(lambda: total()["objects"] == 0, "nothing is left")


def test_each_result_goes_with_its_own_reference(nothing_is_left):
    a, b, c = several.remote()
    assert first(ray.get(b)[2]) == 3
    assert total()["objects"] == 3
    del b
    eventually(lambda: total()["objects"] == 1, "those of the second one are gone")
    assert first(ray.get(a)) == 1
    del c


@pytest.mark.parametrize("actor_class", [Actor, AsyncActor])
def test_results_of_actors(nothing_is_left, actor_class):
    actor = actor_class.remote()
    refs = [actor.one.remote(n) for n in range(8)]
    assert [first(table) for table in ray.get(refs)] == list(range(8))
    del refs[3]
    eventually(lambda: total()["objects"] == 7, "one is gone")


def test_results_of_threads_of_an_actor(nothing_is_left):
    actor = Actor.options(max_concurrency=4).remote()
    refs = [actor.one.remote(n) for n in range(20)]
    assert [first(table) for table in ray.get(refs)] == list(range(20))


def test_results_of_an_actor_that_calls_itself(nothing_is_left):
    @ray.remote
    class Own:
        def one(self, n):
            return make(n)

        async def twice(self):
            handle = ray.get_runtime_context().current_actor
            return first(await handle.one.remote(1)) + first(await handle.one.remote(2))

    assert ray.get(Own.remote().twice.remote()) == 3


def test_a_result_that_is_passed_on_is_as_long_as_it_has_to_be(nothing_is_left):
    ref = same.remote([same.remote(one.remote(5))])
    (inner,) = ray.get(ref)
    del ref
    assert first(ray.get(inner)) == 5


def test_a_view_outlives_the_reference(nothing_is_left):
    ref = one.remote(5)
    view = ray.get(ref)
    del ref
    eventually(lambda: total()["objects"] == 0, "the object is deleted")
    assert view.equals(make(5))


def test_results_that_nobody_wants_leave_nothing(nothing_is_left):
    unwanted = ray.remote(num_cpus=0.5)(make)
    for n in range(20):
        unwanted.remote(n)
    ray.get(unwanted.remote(1))


def test_a_nested_owner(nothing_is_left):
    @ray.remote
    def outer():
        ray.get(ray.put(make(0)))  # from now on it has a connection to the store
        refs = [one.remote(n) for n in range(3)]
        return sum(first(table) for table in ray.get(refs)), make(9)

    ref = outer.remote()
    assert ray.get(ref)[0] == 3
    eventually(lambda: total()["objects"] == 1, "what the task owned is gone")


def test_what_an_owner_owns_dies_with_it(nothing_is_left):
    @ray.remote
    class Owner:
        def own(self):
            ray.get(ray.put(make(0)))
            self.refs = [one.remote(n) for n in range(3)]
            ray.get(self.refs)
            return os.getpid()

    owner = Owner.remote()
    pid = ray.get(owner.own.remote())
    eventually(lambda: total()["objects"] == 3, "what the actor had put is gone")
    os.kill(pid, signal.SIGKILL)


def test_a_result_that_cannot_be_pickled_leaves_nothing(nothing_is_left):
    @ray.remote(num_returns=2)
    def broken():
        return make(1), threading.Lock()

    a, b = broken.remote()
    assert first(ray.get(a)) == 1
    with pytest.raises(TypeError, match="cannot pickle"):
        ray.get(b)
    del b  # pytest keeps what was raised


def test_a_task_that_is_run_again_returns_the_same(nothing_is_left, tmp_path):
    @ray.remote(max_retries=2)
    def dies_once(path):
        if not os.path.exists(path):
            open(path, "w").close()
            ray.get(ray.put(make(0)))
            os.kill(os.getpid(), signal.SIGKILL)
        return make(3)

    assert first(ray.get(dies_once.remote(str(tmp_path / "ran")))) == 3


KILLED = """
    import os, signal, time, ray, zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS, supervisor_pids, total
    from tests.helpers.waiting import eventually
    from tests.ray.test_owners import first, one
    zerrow_ray.init(**RAY_OPTIONS)
    refs = [one.remote(n) for n in range(4)]
    ray.wait(refs, num_returns=4)
    pids = supervisor_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(set(supervisor_pids()) - set(pids)) == 2, "there are others")
    assert [first(table) for table in ray.get(refs)] == [0, 1, 2, 3]
    del refs
    eventually(lambda: total()["objects"] == 0, "nothing is left")
"""


def test_lifetimes_do_not_depend_on_the_supervisors():
    code = textwrap.dedent(KILLED)
    subprocess.run([sys.executable, "-c", code], check=True)


SHUT_DOWN = """
    import os, threading, ray, zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS
    from zerrow_ray import ownership
    from zerrow_ray.session import current_session

    def ask(owner, ended):
        while not ended.is_set():
            owner.claims(b"object", os.urandom(24) + bytes([1, 0, 0, 0]))
            owner.item_stored(b"object", os.urandom(24) + bytes([2, 0, 0, 0]))

    zerrow_ray.init(**RAY_OPTIONS)
    owner, ended = current_session().ownership, threading.Event()
    thread = threading.Thread(target=ask, args=[owner, ended])
    thread.start()
    for _ in range(10_000):
        ref = ray.put(1)
        owner._queue.put(lambda ref=ref: None)  # as of an item that was taken
    ray.shutdown()
    print("shut down", flush=True)
    ended.set()
    thread.join()
    os._exit(0)
"""


def test_ray_is_shut_down_while_owners_are_asked():
    command = [sys.executable, "-c", textwrap.dedent(SHUT_DOWN)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.returncode) == ("shut down\n", 0), ran.stderr[-3000:]


SHUT_DOWN_AMID = """
    import logging, os, threading, time, ray, zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS
    from zerrow_ray import connecting, ray_compat, session, store

    zerrow_ray.init(**RAY_OPTIONS)
    mine, asked = session.current_session(), []

    def ask(node_id=None):
        asked.append(node_id)
        time.sleep(0.5)
        ray_compat.worker_id()

    store.start = session.current_session = ask
    thread = threading.Thread(target={whose})
    thread.start()
    while not asked:
        time.sleep(0.01)
    ray.shutdown()
    thread.join()
    {whose}()
    assert len(asked) == 1
    print("shut down", flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("whose", ["mine._start_again", "connecting._connect"])
def test_ray_is_shut_down_while_a_thread_connects_or_starts_the_store(whose):
    command = [sys.executable, "-c", textwrap.dedent(SHUT_DOWN_AMID.format(whose=whose))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.returncode) == ("shut down\n", 0), ran.stderr[-3000:]


LEFT = """
    import os, ray, zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS
    from zerrow_ray import session, store

    zerrow_ray.init(**RAY_OPTIONS)
    left, asked = session.current_session(), []
    start, store.start = store.start, asked.append
    ray.shutdown()
    left._start_again()
    assert not ray.is_initialized() and not asked
    ray.init(**RAY_OPTIONS)
    left._start_again()
    assert not asked
    store.start = start
    current = session.current_session()
    store.start = asked.append
    current._start_again()
    assert asked == [ray.get_runtime_context().get_node_id()]
    print("left", flush=True)
    os._exit(0)
"""


def test_a_ray_that_was_left_is_not_begun_again_for_its_store():
    command = [sys.executable, "-c", textwrap.dedent(LEFT)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.returncode) == ("left\n", 0), ran.stderr[-3000:]
