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

    threshold: tables of fewer bytes take Ray's own path. The default is where
        `benchmarks/hop.py` finds the break-even.
    """

    threshold: int = 4 << 20


@cache
def plugin_config() -> PluginConfig:
    """Return the settings, read once from ZERROW_THRESHOLD. Raises ValueError for a bad size."""
    threshold = size_setting("ZERROW_THRESHOLD")
    return PluginConfig() if threshold is None else PluginConfig(threshold=threshold)


def store_name(node_id: str) -> str:
    """Name of the store of a Ray node, given the node's id in hexadecimal."""
    return f"ray-{node_id}"
