"""Results whose owners are on another node: by reference, and gone when their references are."""

import os
import signal

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.processes import kill, processes
from tests.helpers.rays import agents, location_of, make
from tests.helpers.waiting import eventually
from zerrow_ray.config import store_name
from zerrow_store.client.client import Client


@ray.remote(resources={"other": 1})
def far(n: int) -> pa.Table:
    return make(n)


@ray.remote(resources={"other": 1})
def far_items(count: int):
    for n in range(count):
        yield make(n)


@ray.remote(resources={"third": 1})
class Owner:
    """Owns results of the other node, from a third one."""

    def own(self, count: int) -> int:
        self.refs = [far.remote(n) for n in range(count)]
        ray.wait(self.refs, num_returns=count)
        return os.getpid()

    def drop(self, index: int) -> None:
        del self.refs[index]

    def first(self, index: int) -> int:
        return ray.get(self.refs[index])["x"][0].as_py()


def known_owner(nodes: "Nodes"):
    """Return an owner that its store knows: what comes before that is copied by Ray."""
    owner = Owner.options(max_restarts=0).remote()

    def is_by_reference() -> bool:
        ray.get(owner.own.remote(1))
        return nodes.count() > 0

    eventually(is_by_reference, "the owner's results go by reference")
    ray.get(owner.own.remote(0))
    eventually(lambda: nodes.count() == 0, "nothing is left of that")
    return owner


class Nodes:
    """A cluster of three nodes, the driver's and two more, whose stores know each other."""

    def __init__(self) -> None:
        options = {"num_cpus": 2, "resources": {"head": 100}}
        self.cluster = Cluster(initialize_head=True, head_node_args=options)
        self.raylets = {
            name: self.cluster.add_node(num_cpus=2, resources={name: 100})
            for name in ("other", "third")
        }
        zerrow_ray.init(address=self.cluster.address, log_to_driver=False, logging_level="error")
        self.ids = {
            name: node["NodeID"]
            for node in ray.nodes()
            for name in ("head", "other", "third")
            if name in node["Resources"]
        }
        for name in ("other", "third"):
            ray.get(ray.remote(resources={name: 1})(make).remote(0))  # starts the store there
        for node_id in self.ids.values():
            eventually(lambda node_id=node_id: location_of(node_id), "all agents serve")
        self.here = Client(store_name(self.ids["head"]))
        self.there = Client(store_name(self.ids["other"]))
        # What was there before they knew each other took Ray's own path.
        eventually(self.is_by_reference, "results go by reference")
        eventually(lambda: self.count() == 0, "nothing is left of that")

    def is_by_reference(self) -> bool:
        ref = far.remote(0)
        ray.wait([ref], fetch_local=False)
        return self.count() > 0

    def count(self) -> int:
        """How many objects are on the other node."""
        return len(self.there.list())

    def server(self, name: str) -> int:
        (pid,) = processes("zerrow_store.server.server", store_name(self.ids[name]))
        return pid

    def agent(self, name: str) -> int:
        (pid,) = processes("zerrow_ray.agent", store_name(self.ids[name]))
        return pid

    def close(self) -> None:
        self.here.close()
        self.there.close()
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes():
    made = Nodes()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_left(nodes):
    yield
    eventually(lambda: nodes.count() == 0, "nothing is left on the other node")


def wait(refs):
    ray.wait(refs, num_returns=len(refs), fetch_local=False)


def test_each_result_goes_with_its_reference(nodes):
    refs = [far.remote(n) for n in range(4)]
    wait(refs)
    assert nodes.count() == 4
    del refs[1]
    eventually(lambda: nodes.count() == 3, "one is gone")
    assert [table["x"][0].as_py() for table in ray.get(refs)] == [0, 2, 3]


def test_what_belongs_elsewhere_is_no_object_of_the_owners_store(nodes):
    refs = [far.remote(n) for n in range(3)]
    wait(refs)
    assert nodes.here.list() == []
    assert nodes.here.stats().objects == 0


def test_a_view_outlives_the_reference(nodes):
    ref = far.remote(5)
    view = ray.get(ref)
    del ref
    eventually(lambda: nodes.count() == 0, "the object is deleted")
    assert view.equals(make(5))


def test_items_of_streams(nodes):
    generator = far_items.remote(4)
    first = next(generator)
    wait([first])
    eventually(lambda: nodes.count() == 4, "all are there")
    second = next(generator)
    del first, generator
    eventually(lambda: nodes.count() == 1, "what was not taken is gone")
    assert ray.get(second).equals(make(1))


def test_owners_that_are_workers(nodes):
    owner = known_owner(nodes)
    ray.get(owner.own.remote(3))
    assert nodes.count() == 3
    ray.get(owner.drop.remote(0))
    eventually(lambda: nodes.count() == 2, "one is gone")
    assert ray.get(owner.first.remote(0)) == 1


def test_what_an_owner_owns_dies_with_it(nodes):
    owner = known_owner(nodes)
    pid = ray.get(owner.own.remote(3))
    assert nodes.count() == 3
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: nodes.count() == 0, "they are gone with it")


@pytest.mark.parametrize("whose", ["head", "other"])
@pytest.mark.parametrize("what", ["agent", "server"])
def test_killed_while_there_are_objects(nodes, what, whose):
    refs = [far.remote(n) for n in range(3)]
    wait(refs)
    pid = getattr(nodes, what)(whose)
    kill(pid)
    # Whatever was let go of while nobody could say so, or says so afterwards.
    del refs[0]
    eventually(lambda: nodes.count() == 2, "one is gone")
    assert [table["x"][0].as_py() for table in ray.get(refs)] == [1, 2]
    eventually(lambda: getattr(nodes, what)(whose) != pid, "there is another one")
    eventually(nodes.is_by_reference, "results go by reference again")


def test_idle_nodes_are_idle(nodes):
    """For the autoscaler: nothing of the plugin keeps a node."""
    from ray.core.generated import autoscaler_pb2
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    gcs = ray._private.worker.global_worker.gcs_client

    def statuses() -> list[int]:
        state = autoscaler_pb2.GetClusterResourceStateReply.FromString(
            gcs.get_cluster_resource_state()
        )
        return [node.status for node in state.cluster_resource_state.node_states]

    ref = far.remote(0)
    wait([ref])
    del ref
    eventually(lambda: nodes.count() == 0, "nothing is stored")
    eventually(lambda: statuses() == [NodeStatus.IDLE] * 3, "all nodes are idle")


def test_what_a_node_owned_goes_with_it(nodes):
    """The last test: a node leaves."""
    owner = known_owner(nodes)
    ray.get(owner.own.remote(2))
    assert nodes.count() == 2
    nodes.cluster.remove_node(nodes.raylets["third"], allow_graceful=False)
    eventually(lambda: nodes.count() == 0, "what belonged there is gone")
    assert len(agents()) == 2
