"""`zerrow_ray.stats`: the figures of all nodes' stores."""

from dataclasses import fields

import pyarrow as pa
import ray

import zerrow_ray
from tests.helpers.rays import RAY_OPTIONS
from tests.helpers.waiting import eventually
from zerrow_store import StoreStats
from zerrow_store.protocol.reports import CacheStats, SandboxStats, TransferStats


def test_figures_of_the_cluster_and_of_each_node(big: pa.Table) -> None:
    with zerrow_ray.init(**RAY_OPTIONS):
        ref = ray.put(big)
        stats = zerrow_ray.stats()
        assert isinstance(stats, zerrow_ray.ClusterStats)
        (node,) = stats.nodes.values()
        assert stats.nodes.keys() == {ray.get_runtime_context().get_node_id()}
        assert isinstance(node, StoreStats)
        assert isinstance(node.cache, CacheStats)
        assert isinstance(node.transfers, TransferStats)
        assert stats.total.sandbox == node.sandbox == SandboxStats()
        assert node.evicted.keys() == {"drop", "spill", "rollback"}
        assert (stats.total.objects, stats.total.bytes_stored) == (1, big.nbytes)
        for each in fields(stats.total):
            assert getattr(stats.total, each.name) == getattr(node, each.name)
        as_dict = stats.as_dict()
        assert as_dict["total"]["bytes_stored"] == big.nbytes
        assert as_dict["nodes"].popitem()[1] == node.as_dict()
        del ref
        eventually(lambda: zerrow_ray.stats().total.objects == 0, "the table is freed")
