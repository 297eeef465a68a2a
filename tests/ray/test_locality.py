"""Tasks run where the bytes of their tables lie, as on plain Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.rays import location_of, size_of
from tests.helpers.waiting import eventually

MB = 1_000_000


def make(nbytes: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(np.arange(nbytes // 8)), 1)})


@ray.remote
def table(nbytes: int) -> pa.Table:
    return make(nbytes)


@ray.remote
def array(nbytes: int) -> np.ndarray:
    return np.ones(nbytes // 8)


@ray.remote
def where(*values) -> str:
    return ray.get_runtime_context().get_node_id()


@pytest.fixture(scope="module")
def nodes():
    """A cluster whose driver's node runs no tasks; yields the ids of the two others."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for name in ("left", "right"):
        cluster.add_node(num_cpus=4, resources={name: 100})
    zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    ids = {
        name: node["NodeID"]
        for node in ray.nodes()
        for name in ("left", "right")
        if name in node["Resources"]
    }
    for name, node_id in ids.items():
        ray.get(table.options(resources={name: 1}).remote(8 * MB))
        eventually(lambda node_id=node_id: location_of(node_id), "its agent serves")
    eventually(lambda: is_by_reference("left") and is_by_reference("right"), "all go by reference")
    yield ids
    ray.shutdown()
    cluster.shutdown()


def is_by_reference(name: str) -> bool:
    ref = table.options(resources={name: 1}).remote(40 * MB)
    ray.wait([ref], fetch_local=False)
    return size_of(ref) < MB


def on(name, task, *args):
    ref = task.options(resources={name: 1}).remote(*args)
    ray.wait([ref], fetch_local=False)
    return ref


@pytest.mark.parametrize(("here", "there"), [("left", "right"), ("right", "left")])
def test_a_large_table_and_a_smaller_object_elsewhere(nodes, here, there):
    large, small = on(here, table, 200 * MB), on(there, array, 2 * MB)
    for arguments in ((large, small), (small, large)):
        assert {ray.get(where.remote(*arguments)) for _ in range(12)} == {nodes[here]}


@pytest.mark.parametrize(("here", "there"), [("left", "right"), ("right", "left")])
def test_two_tables_of_different_sizes(nodes, here, there):
    large, small = on(here, table, 40 * MB), on(there, table, 8 * MB)
    for arguments in ((large, small), (small, large)):
        assert {ray.get(where.remote(*arguments)) for _ in range(12)} == {nodes[here]}


@pytest.mark.parametrize(("here", "there"), [("left", "right"), ("right", "left")])
def test_a_table_and_a_hundred_small_objects_elsewhere(nodes, here, there):
    @ray.remote
    def many():
        return [ray.put(np.ones(100)) for _ in range(100)]

    large = on(here, table, 40 * MB)
    small = ray.get(on(there, many))
    assert {ray.get(where.remote(large, *small)) for _ in range(12)} == {nodes[here]}


def test_a_table_that_is_not_there_yet(nodes):
    for here, there in [("left", "right"), ("right", "left")] * 3:
        small = on(there, array, MB)
        large = table.options(resources={here: 1}).remote(120 * MB)
        assert ray.get(where.remote(small, large)) == nodes[here]


def plasma() -> int:
    """The bytes of Ray's own store that this process has touched."""
    touched, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = "plasma" in line
        elif inside and line.startswith("Rss:"):
            touched += int(line.split()[1]) << 10
    return touched


def test_the_room_that_is_weighed_takes_no_memory(nodes):
    assert plasma() > 0
    data, before = make(800 * MB), plasma()
    refs = [ray.put(data) for _ in range(4)]
    for ref in refs:
        assert 10 * MB < size_of(ref) < 20 * MB
    assert plasma() < before + MB
    assert ray.get(refs[0]).equals(data)
