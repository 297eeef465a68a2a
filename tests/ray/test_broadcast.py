"""One table to several nodes: the node that made it sends it twice, and the others serve it on."""

from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.data import MIB, table_of
from tests.helpers.processes import processes
from tests.helpers.rays import location_of
from tests.helpers.waiting import eventually
from zerrow_ray.config import store_name

RECEIVERS = 4
SIZE = 32 * MIB


@ray.remote(num_cpus=1)
class Keeper:
    def keep(self, kept: pa.Table) -> bool:
        self.kept = kept
        return kept.equals(table_of(SIZE))

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


@pytest.fixture
def nodes():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(RECEIVERS):
        cluster.add_node(num_cpus=1)
    zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def written(pid: int) -> int:
    """The bytes that a process has written: to sockets, by sendfile, too."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def stored() -> list[int]:
    return [node.bytes_stored for node in zerrow_ray.stats().nodes.values()]


def test_a_broadcast(nodes):
    keepers = [Keeper.remote() for _ in range(RECEIVERS)]
    assert len(set(ray.get([keeper.node.remote() for keeper in keepers]))) == RECEIVERS
    here = ray.get_runtime_context().get_node_id()
    ref = ray.put(table_of(SIZE))
    eventually(lambda: location_of(here), "this node's agent serves")
    (agent,) = processes("zerrow_ray.agent", store_name(here))
    before = written(agent)
    assert all(ray.get([keeper.keep.remote(ref) for keeper in keepers]))
    assert 1 <= (written(agent) - before) / SIZE < 2.2
    assert sum(each >= SIZE for each in stored()) == RECEIVERS + 1
    del ref
    for keeper in keepers:
        ray.kill(keeper)
    eventually(lambda: not any(stored()), "no node has anything left")
