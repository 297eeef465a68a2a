"""Results whose data is lost with its node are made again, also if their messages are elsewhere."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.rays import location_of, on
from tests.helpers.waiting import eventually
from zerrow_ray import ray_recovery_compat
from zerrow_ray.session import current_session

ROWS = 1_000_000


def made(path):
    """Make a table, and write down that it was made."""
    with open(path, "a") as file:
        file.write("x")
    return pa.table({"x": pc.add(pa.array(np.arange(ROWS)), 1)})


def made_of(path, table):
    with open(path, "a") as file:
        file.write("y")
    return pa.table({"x": pc.add(table["x"], 1)})


def started():
    current_session()


@ray.remote
def total_of(table):
    return pc.sum(table["x"]).as_py()


class Nodes:
    """The driver's node, called "head", and others that can be killed."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._others = {}

    def add(self, name, *, also=None):
        """Add a node with its own resource, and also that of another one."""
        resources = {each: 100 for each in (name, also) if each}
        self._others[name] = self._cluster.add_node(num_cpus=2, resources=resources)
        ray.get(on(ray.remote(started), name).remote())
        eventually(lambda: location_of(self.id_of(name)), "its agent serves")

    def id_of(self, name):
        return self._others[name].node_id

    def kill(self, name):
        self._cluster.remove_node(self._others.pop(name), allow_graceful=False)

    def kill_and_wait(self, name):
        """Kill a node, and wait until Ray has noticed."""
        node_id = self.id_of(name)
        self.kill(name)

        def is_dead():
            return any(n["NodeID"] == node_id and not n["Alive"] for n in ray.nodes())

        eventually(is_dead, "Ray has noticed", seconds=120)


@pytest.fixture
def nodes():
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"head": 100}}
    )
    zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    nodes = Nodes(cluster)
    nodes.add("first")
    yield nodes
    ray.shutdown()
    cluster.shutdown()


def has_message(ref, node_id):
    return node_id in ray.experimental.get_object_locations([ref])[ref]["node_ids"]


def lost_result(nodes, path, levels=1, **options):
    """A result that is lost, whose message, and those of what it was made of, are on this node."""
    path = str(path)
    first = ray.remote(made).options(resources={"first": 1}, **options)
    refs = [first.remote(path)]
    for _ in range(levels - 1):
        refs.append(on(ray.remote(made_of), "first").remote(path, refs[-1]))
    ray.wait(refs, num_returns=levels, fetch_local=True)
    here = ray.get_runtime_context().get_node_id()
    eventually(lambda: all(has_message(ref, here) for ref in refs), "the messages are here")
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    return refs[-1]


def expected(levels):
    return ROWS * (ROWS - 1) // 2 + levels * ROWS


@pytest.mark.parametrize("levels", [1, 2])
def test_a_get_makes_a_lost_result_again(nodes, tmp_path, levels):
    ref = lost_result(nodes, tmp_path / "runs", levels)
    table = ray.get(ref, timeout=240)
    assert pc.sum(table["x"]).as_py() == expected(levels)
    assert (tmp_path / "runs").read_text() == "xy"[:levels] * 2


@pytest.mark.parametrize("levels", [1, 2])
def test_a_lost_argument_is_made_again(nodes, tmp_path, levels):
    ref = lost_result(nodes, tmp_path / "runs", levels)
    assert ray.get(on(total_of, "head").remote(ref), timeout=240) == expected(levels)
    assert (tmp_path / "runs").read_text() == "xy"[:levels] * 2


def test_messages_on_other_nodes_are_found_worthless_there(nodes, tmp_path):
    nodes.add("third")
    ref = on(ray.remote(made), "first").remote(str(tmp_path / "runs"))
    ray.get(on(ray.remote(lambda refs: ray.wait(refs) and None), "third").remote([ref]))
    ray.wait([ref], fetch_local=True)
    here, third = ray.get_runtime_context().get_node_id(), nodes.id_of("third")
    eventually(lambda: has_message(ref, here) and has_message(ref, third), "both have it")
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    assert pc.sum(ray.get(ref, timeout=240)["x"]).as_py() == expected(1)
    assert ray.get(on(total_of, "third").remote(ref), timeout=240) == expected(1)
    assert (tmp_path / "runs").read_text() == "xx"


def test_the_second_node_ends_during_the_recovery(nodes, tmp_path):
    ref = lost_result(nodes, tmp_path / "runs", 2)
    got = on(total_of, "head").remote(ref)
    eventually(lambda: len((tmp_path / "runs").read_text()) > 2, "it is made again", seconds=120)
    nodes.kill("second")
    nodes.add("third", also="first")
    assert ray.get(got, timeout=400) == expected(2)
    assert pc.sum(ray.get(ref, timeout=400)["x"]).as_py() == expected(2)


def test_a_result_that_may_not_be_made_again_stays_lost(nodes, tmp_path):
    ref = lost_result(nodes, tmp_path / "runs", max_retries=0)
    for _ in range(2):
        with pytest.raises(ray.exceptions.ObjectLostError, match=ref.hex()):
            ray.get(ref, timeout=240)
    assert (tmp_path / "runs").read_text() == "x"


def made_twice(path):
    yield made(path)
    yield made(path)


def test_an_item_of_a_stream_is_made_again(nodes, tmp_path):
    items = list(on(ray.remote(made_twice), "first").remote(str(tmp_path / "runs")))
    ray.wait(items, num_returns=2, fetch_local=True)
    here = ray.get_runtime_context().get_node_id()
    eventually(lambda: all(has_message(item, here) for item in items), "the messages are here")
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    for table in ray.get(items, timeout=240):
        assert pc.sum(table["x"]).as_py() == expected(1)


def put():
    return [ray.put(made(os.devnull))]


def test_a_lost_put_stays_lost(nodes):
    (ref,) = ray.get(on(ray.remote(put), "first").remote())
    ray.wait([ref], fetch_local=True)
    here = ray.get_runtime_context().get_node_id()
    eventually(lambda: has_message(ref, here), "the message is here")
    nodes.kill_and_wait("first")
    for _ in range(2):
        with pytest.raises(ray.exceptions.ObjectLostError, match=ref.hex()):
            ray.get(ref, timeout=240)


def test_without_what_it_takes_of_ray_the_error_says_what_is_lost(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_recovery_compat, "lacking_to_tell", lambda: ["ray:something"])
    ref = lost_result(nodes, tmp_path / "runs")
    with pytest.raises(ray.exceptions.RaySystemError, match=r"it was on node \w+, which is gone"):
        ray.get(ref, timeout=240)
    assert (tmp_path / "runs").read_text() == "x"


class Adder:
    def total_of(self, *tables):
        return sum(pc.sum(table["x"]).as_py() for table in tables)

    def make(self, path):
        return made(path)


class AsyncAdder:
    async def total_of(self, *tables):
        return sum(pc.sum(table["x"]).as_py() for table in tables)

    async def total_of_ref(self, refs):
        return pc.sum((await refs[0])["x"]).as_py()


@pytest.mark.parametrize(
    "adder", [ray.remote(Adder), ray.remote(max_concurrency=2)(Adder), ray.remote(AsyncAdder)]
)
def test_an_actors_lost_arguments_are_made_again(nodes, tmp_path, adder):
    refs = lost_results(nodes, tmp_path / "runs", 2)
    actor = on(adder, "head").remote()
    for _ in range(2):
        assert ray.get(actor.total_of.remote(*refs), timeout=240) == 2 * expected(1)
    assert (tmp_path / "runs").read_text() == "xxxx"


def test_after_an_await_has_failed_it_is_made_again(nodes, tmp_path):
    """The thread that answers an await may not wait for anything."""
    ref = lost_result(nodes, tmp_path / "runs")
    adder = on(ray.remote(AsyncAdder), "head").remote()
    with pytest.raises(ray.exceptions.RayTaskError, match="which is gone"):
        ray.get(adder.total_of_ref.remote([ref]), timeout=240)
    assert ray.get(adder.total_of_ref.remote([ref]), timeout=240) == expected(1)
    assert (tmp_path / "runs").read_text() == "xx"


def test_an_actor_does_not_wait_for_a_result_of_its_own(nodes, tmp_path):
    """It would have to make it, while it waits."""
    adder = ray.remote(max_restarts=-1, max_task_retries=-1)(Adder)
    actor = adder.options(resources={"first": 1}).remote()
    ref = actor.make.remote(str(tmp_path / "runs"))
    ray.wait([ref], fetch_local=True)
    here = ray.get_runtime_context().get_node_id()
    eventually(lambda: has_message(ref, here), "the message is here")
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    ray.get(on(ray.remote(lambda refs: ray.wait(refs) and None), "second").remote([ref]))
    with pytest.raises(ray.exceptions.RayTaskError, match="which is gone"):
        ray.get(actor.total_of.remote(ref), timeout=100)
    assert ray.get(actor.total_of.remote(ref), timeout=240) == expected(1)


def test_a_copy_that_is_worth_something_stays(nodes, tmp_path):
    ref = on(ray.remote(made), "first").remote(str(tmp_path / "runs"))
    ray.wait([ref], fetch_local=True)
    for _ in range(3):
        ray_recovery_compat.make_again([ref])
        assert pc.sum(ray.get(ref, timeout=120)["x"]).as_py() == expected(1)
    nodes.kill_and_wait("first")  # and the table, which is here, outlives it
    assert pc.sum(ray.get(ref, timeout=120)["x"]).as_py() == expected(1)
    assert (tmp_path / "runs").read_text() == "x"


@ray.remote(max_retries=1)
def total_of_all(*tables):
    return sum(pc.sum(table["x"]).as_py() for table in tables)


def lost_results(nodes, path, count):
    refs = [on(ray.remote(made), "first").remote(str(path)) for _ in range(count)]
    ray.wait(refs, num_returns=count, fetch_local=True)
    here = ray.get_runtime_context().get_node_id()
    eventually(lambda: all(has_message(ref, here) for ref in refs), "the messages are here")
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    return refs


def test_many_lost_arguments_take_one_retry(nodes, tmp_path):
    refs = lost_results(nodes, tmp_path / "runs", 5)
    assert ray.get(on(total_of_all, "head").remote(*refs), timeout=400) == 5 * expected(1)
    assert (tmp_path / "runs").read_text() == "x" * 10


def test_many_are_got_at_once_and_by_several_threads(nodes, tmp_path):
    refs = lost_results(nodes, tmp_path / "runs", 5)
    with ThreadPoolExecutor(3) as pool:
        got = [pool.submit(ray.get, refs, timeout=400) for _ in range(3)]
    for each in got:
        assert sum(pc.sum(table["x"]).as_py() for table in each.result()) == 5 * expected(1)
    assert (tmp_path / "runs").read_text() == "x" * 10


@ray.remote
class Owner:
    """Owns a result, and says what it reads of it."""

    def make(self, path):
        self.ref = on(ray.remote(made), "first").remote(path)
        ray.wait([self.ref])
        return [self.ref]

    def total(self):
        return pc.sum(ray.get(self.ref)["x"]).as_py()


def test_what_a_worker_of_another_node_owns_is_made_again(nodes, tmp_path):
    nodes.add("third")
    owner = on(Owner, "third").remote()
    (ref,) = ray.get(owner.make.remote(str(tmp_path / "runs")))
    ray.wait([ref], fetch_local=True)
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    assert pc.sum(ray.get(ref, timeout=240)["x"]).as_py() == expected(1)
    assert ray.get(owner.total.remote(), timeout=240) == expected(1)
    assert (tmp_path / "runs").read_text() == "xx"


def test_when_the_owner_has_ended_too_the_error_is_rays(nodes, tmp_path):
    nodes.add("third")
    owner = on(Owner, "third").remote()
    (ref,) = ray.get(owner.make.remote(str(tmp_path / "runs")))
    ray.wait([ref], fetch_local=True)
    nodes.kill("third")
    nodes.kill_and_wait("first")
    with pytest.raises(ray.exceptions.OwnerDiedError, match=ref.hex()):
        ray.get(ref, timeout=240)


def test_a_get_that_has_a_timeout_ends_with_it(nodes, tmp_path):
    ref = lost_result(nodes, tmp_path / "runs")
    nodes.kill_and_wait("second")  # so nobody can make it
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=5)
    nodes.add("third", also="first")
    assert pc.sum(ray.get(ref, timeout=240)["x"]).as_py() == expected(1)
