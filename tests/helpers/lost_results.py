"""A Ray of several nodes that can be killed, and results that are lost with one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.rays import ROWS, location_of, make, on
from tests.helpers.waiting import eventually
from zerrow_ray import ray_compat
from zerrow_ray.session import current_session


def made(path: str) -> pa.Table:
    """Make a table, and write down that it was made."""
    with open(path, "a") as file:
        file.write("x")
    return make(1)


def made_of(path: str, table: pa.Table) -> pa.Table:
    """Make a table of another one, and write that down."""
    with open(path, "a") as file:
        file.write("y")
    return pa.table({"x": pc.add(table["x"], 1)})


def sum_of(table: pa.Table) -> int:
    return int(pc.sum(table["x"]).as_py())


def expected(levels: int) -> int:
    """The sum of what `made`, and then `made_of` so often, returns."""
    return ROWS * (ROWS - 1) // 2 + levels * ROWS


def started() -> None:
    current_session()


class Nodes:
    """The driver's node, called "head", and others that can be killed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._others: dict[str, Any] = {}

    def add(self, name: str, *, also: str | None = None) -> None:
        """Add a node with its own resource, and also that of another one."""
        resources = {each: 100 for each in (name, also) if each}
        self._others[name] = self._cluster.add_node(num_cpus=2, resources=resources)
        ray.get(on(ray.remote(started), name).remote())
        eventually(lambda: location_of(self.id_of(name)), "its agent serves")

    def id_of(self, name: str) -> str:
        node_id: str = self._others[name].node_id
        return node_id

    def remove_all(self) -> None:
        """Have all of them leave the cluster in good order."""
        while self._others:
            self._cluster.remove_node(self._others.popitem()[1], allow_graceful=True)

    def kill(self, name: str) -> None:
        self._cluster.remove_node(self._others.pop(name), allow_graceful=False)

    def kill_and_wait(self, name: str) -> None:
        """Kill a node, and wait until Ray has noticed."""
        node_id = self.id_of(name)
        self.kill(name)

        def is_dead() -> bool:
            return any(n["NodeID"] == node_id and not n["Alive"] for n in ray.nodes())

        eventually(is_dead, "Ray has noticed", seconds=120)


@contextmanager
def nodes() -> Iterator[Nodes]:
    """The driver's node alone."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"head": 100}}
    )
    zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield Nodes(cluster)
    ray.shutdown()
    cluster.shutdown()


def has_message(ref: ray.ObjectRef, node_id: str) -> bool:
    return node_id in ray.experimental.get_object_locations([ref])[ref]["node_ids"]


def bring_messages(refs: list[ray.ObjectRef]) -> None:
    """Have Ray bring the messages of results to this node, and nobody their data."""
    ray.wait(refs, num_returns=len(refs), fetch_local=False)
    eventually(lambda: len(ray_compat.arrived(refs)) == len(refs), "Ray has brought them")


def have_messages(refs: list[ray.ObjectRef]) -> None:
    """Have the messages of results copied to this node, and their owners know that."""
    bring_messages(refs)
    here = ray.get_runtime_context().get_node_id()
    eventually(lambda: all(has_message(ref, here) for ref in refs), "the messages are here")


def result(path: str, levels: int = 1, **options: Any) -> list[ray.ObjectRef]:
    """A result of the node called "first", after those that it is made of, whose runs are recorded
    in a file.
    """
    refs = [ray.remote(made).options(resources={"first": 1}, **options).remote(path)]
    for _ in range(levels - 1):
        refs.append(on(ray.remote(made_of), "first").remote(path, refs[-1]))
    return refs


def lose(nodes: Nodes, refs: list[ray.ObjectRef]) -> None:
    """Have the data of results lost, but not their messages."""
    have_messages(refs)
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
