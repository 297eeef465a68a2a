"""What goes by reference by default: more where a node is alone."""

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.rays import Moved, location_of, on
from tests.helpers.waiting import eventually
from zerrow_ray.config import plugin_config

MIB = 1 << 20
SMALL, MIDDLE, LARGE = 3 * MIB, 15 * MIB, 16 * MIB
"""Below both thresholds, between them, and above both."""


def table(nbytes):
    return pa.table({"x": pa.array(range(nbytes // 8), pa.int64())})


MAKES = {
    "table": table,
    "array": lambda nbytes: table(nbytes)["x"].chunk(0),
    "pandas": lambda nbytes: pd.DataFrame({"x": range(nbytes // 8)}),
    "polars": lambda nbytes: pl.DataFrame({"x": range(nbytes // 8)}),
}


@ray.remote
def made(kind, nbytes):
    return MAKES[kind](nbytes)


def is_by_reference(make, *arguments):
    with Moved() as moved:
        kept = make(*arguments)
        assert len(ray.get(kept)) > 0
    return moved.stored > 0


@pytest.fixture
def lone_node(monkeypatch):
    monkeypatch.delenv("ZERROW_THRESHOLD", raising=False)
    plugin_config.cache_clear()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 100}}
    )
    zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    plugin_config.cache_clear()


def test_more_goes_by_reference_where_a_node_is_alone(lone_node):
    for kind, make in MAKES.items():
        assert not is_by_reference(ray.put, make(SMALL)), kind
        assert is_by_reference(ray.put, make(MIDDLE)), kind
        assert is_by_reference(on(made, "head").remote, kind, MIDDLE), kind

    lone_node.add_node(num_cpus=1, resources={"other": 100})
    ray.get(on(made, "other").remote("table", LARGE))  # which starts the store there
    for node in ray.nodes():
        eventually(lambda node=node: location_of(node["NodeID"]), "both agents serve")

    for kind, make in MAKES.items():
        for nbytes, expected in (SMALL, False), (MIDDLE, False), (LARGE, True):
            assert is_by_reference(ray.put, make(nbytes)) == expected, (kind, nbytes)
            for node in "head", "other":
                found = is_by_reference(on(made, node).remote, kind, nbytes)
                assert found == expected, (kind, nbytes, node)
