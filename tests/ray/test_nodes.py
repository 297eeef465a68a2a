"""Several nodes: objects are fetched once per machine, and lost ones are recomputed."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.capabilities import needs_openssl
from tests.helpers.certificates import with_tls
from tests.helpers.processes import kill, processes
from tests.helpers.rays import agents, location_of, on
from tests.helpers.waiting import eventually
from zerrow_ray import transfers
from zerrow_ray.config import store_name
from zerrow_store.errors import ProtocolError
from zerrow_store.transfer.channel import connect
from zerrow_store.transfer.security import Security

ROWS = 1_000_000


def make(n: int = 0) -> pa.Table:
    return pa.table(
        {"x": pc.add(pa.array(np.arange(ROWS)), n), "s": pa.array(["ab", None] * (ROWS // 2))}
    )


@ray.remote
def born(n):
    return make(n)


@ray.remote
def born_of(table):
    return pa.table({"x": pc.add(table["x"], 0), "s": table["s"]})


@ray.remote
def total_of(table):
    table.validate(full=True)
    return pc.sum(table["x"]).as_py()


@ray.remote
def keep_y(table):
    return table.select(["s"])


@pytest.fixture
def two_nodes():
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "resources": {"head": 100}},
    )
    other = cluster.add_node(num_cpus=2, resources={"other": 100})
    zerrow_ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level="error",
    )
    ray.get(on(born, "other").remote(0))  # which starts the store there
    for node in ray.nodes():
        eventually(lambda node=node: location_of(node["NodeID"]), "both agents serve")
    yield cluster, other
    ray.shutdown()
    cluster.shutdown()


def stored(node_id):
    return zerrow_ray.stats().nodes[node_id].bytes_stored


def test_fetched_once_and_kept_as_long_as_the_reference(two_nodes):
    ref = ray.put(make())
    size = make().nbytes
    sums = ray.get([on(total_of, "other").remote(ref) for _ in range(4)])
    assert sums == [ROWS * (ROWS - 1) // 2] * 4
    here = ray.get_runtime_context().get_node_id()
    (there,) = {node["NodeID"] for node in ray.nodes()} - {here}
    assert stored(here) >= size

    @ray.remote(resources={"other": 1})
    class Keeper:
        def keep(self, table):
            self.table = table

    keepers = [Keeper.remote() for _ in range(2)]
    ray.get([keeper.keep.remote(ref) for keeper in keepers])
    assert size <= stored(there) < 1.1 * size
    for keeper in keepers:
        ray.kill(keeper)
    for pid in processes("zerrow_ray.agent", store_name(here)):
        kill(pid)  # nobody can send it again
    assert ray.get(on(total_of, "other").remote(ref)) == ROWS * (ROWS - 1) // 2
    assert size <= stored(there) < 1.1 * size
    del ref
    eventually(lambda: stored(there) == stored(here) == 0, "the copy goes with the reference")


def test_results_come_back_and_landed_copies_are_reshared(two_nodes):
    ref = on(born, "other").remote(7)
    assert ray.get(ref).equals(make(7))
    assert ray.get(on(keep_y, "head").remote(ref)).equals(make(7).select(["s"]))
    assert ray.get(on(keep_y, "other").remote(ray.put(make(1)))).equals(make(1).select(["s"]))


def test_results_of_a_dead_node_are_recomputed(two_nodes):
    cluster, other = two_nodes
    ref = on(born, "other").remote(3)
    ray.wait([ref], fetch_local=False)
    cluster.remove_node(other, allow_graceful=False)
    cluster.add_node(num_cpus=2, resources={"other": 100})
    assert ray.get(ref).equals(make(3))


def run_once(path):
    """Make a table, and write down that it was made."""
    with open(path, "a") as file:
        file.write("x")
    return make(3)


@pytest.mark.parametrize("levels", [1, 2])
def test_what_was_read_elsewhere_survives_its_node(two_nodes, tmp_path, levels):
    cluster, other = two_nodes
    path = tmp_path / "runs"
    ref = on(ray.remote(run_once), "other").remote(str(path))
    for _ in range(levels - 1):
        ref = on(born_of, "other").remote(ref)
    assert ray.get(ref).equals(make(3))  # and let go of
    cluster.remove_node(other, allow_graceful=False)
    last = cluster.add_node(num_cpus=1, resources={"last": 100})
    assert ray.get(ref).equals(make(3))
    assert ray.get(on(total_of, "last").remote(ref)) == ray.get(on(total_of, "head").remote(ref))
    assert path.read_text() == "x"
    here = ray.get_runtime_context().get_node_id()
    del ref
    eventually(lambda: stored(here) == stored(last.node_id) == 0, "nothing is left")


def test_a_lost_put_names_what_was_lost(two_nodes):
    cluster, other = two_nodes

    @ray.remote(resources={"other": 1})
    def put():
        return [ray.put(make())]

    (ref,) = ray.get(put.remote())
    cluster.remove_node(other, allow_graceful=False)
    with pytest.raises(ray.exceptions.ObjectLostError, match=ref.hex()):
        ray.get(ref)


def test_other_nodes_are_authenticated(two_nodes):
    ref = ray.put(make())
    ray.get(on(total_of, "other").remote(ref))
    location = location_of(ray.get_runtime_context().get_node_id())
    assert not location.startswith("0.0.0.0")
    with pytest.raises(ProtocolError, match="secret"):
        connect(location, Security(secret=b"another cluster's secret"))


def test_a_killed_transfer_agent_is_replaced(two_nodes):
    """Of both nodes: what has landed stays, and what is asked for next is fetched."""
    refs = [on(born, "other").remote(n) for n in range(3)]
    first = ray.get(refs[0])
    assert len(agents()) == 2
    for pid in agents():
        kill(pid)
    assert ray.get(refs[1]).equals(make(1))
    assert first.equals(make(0))
    assert ray.get(refs[2]).equals(make(2))
    eventually(lambda: len(agents()) == 2, "there are two again")


def test_an_agent_that_has_not_been_replaced_yet_is_waited_for(two_nodes, monkeypatch):
    """Where the killed one served is what is said until the next one says otherwise."""
    ref = on(born, "other").remote(1)
    ray.wait([ref], fetch_local=False)
    mine = ray.get_runtime_context().get_node_id()
    (there,) = (node["NodeID"] for node in ray.nodes() if node["NodeID"] != mine)
    killed = location_of(there)
    for pid in processes("zerrow_ray.agent", store_name(there)):
        kill(pid)
    eventually(lambda: location_of(there) not in (None, "", killed), "there is another one")
    said = iter([killed] * 5)
    monkeypatch.setattr(transfers, "_said_location", lambda node: next(said, location_of(node)))
    assert ray.get(ref).equals(make(1))
    assert next(said, None) is None


ENCRYPTED = """
import pyarrow as pa, ray, zerrow_ray
from ray.cluster_utils import Cluster
from tests.helpers.rays import location_of, on
from tests.ray.test_nodes import born, make
from ray.experimental.internal_kv import _internal_kv_get
from zerrow_ray import cluster as nodes
from zerrow_store.transfer.channel import connect
from zerrow_store.transfer.security import Security

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 1}})
cluster.add_node(num_cpus=1, resources={"other": 1})
zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
assert ray.get(on(born, "other").remote(1)).equals(make(1))
location = location_of(ray.get_runtime_context().get_node_id())
encrypted = nodes.security(_internal_kv_get)
connect(location, encrypted).close()
try:
    connect(location, Security(secret=encrypted.secret))
except OSError:
    print("refused without TLS")
ray.shutdown()
cluster.shutdown()
"""


@needs_openssl
def test_what_is_between_nodes_is_encrypted_where_ray_is(tmp_path):
    command, environ = [sys.executable, "-c", ENCRYPTED], with_tls(tmp_path / "authority")
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)
    assert ran.stdout == "refused without TLS\n", ran.stderr
