"""Settings of the Ray plugin, from the environment."""

from dataclasses import dataclass
from functools import cache

from zerrow_store.sizes import size_setting

INLINE_LIMIT = 100 * 1024
"""Ray keeps objects up to this size with their owner, larger ones in the node's plasma
(`max_direct_call_object_size` in Ray's ray_config_def.h)."""


@dataclass(frozen=True)
class PluginConfig:
    """Settings of the Ray plugin.

    threshold: smaller tables, in bytes, take Ray's own path. The default is the break-even that
        `benchmarks/hop.py` has found.
    threshold_between_nodes: the same where the cluster has other nodes; the break-even of
        `benchmarks/cluster.py`.
    """

    threshold: int = 4 << 20
    threshold_between_nodes: int = 16 << 20


@cache
def plugin_config() -> PluginConfig:
    """Return the settings, read once from ZERROW_THRESHOLD. Raises ValueError for a bad size."""
    threshold = size_setting("ZERROW_THRESHOLD")
    return PluginConfig() if threshold is None else PluginConfig(threshold, threshold)


def store_name(node_id: str) -> str:
    """Return the name of a Ray node's store. node_id: in hexadecimal."""
    return f"ray-{node_id}"
