"""Ray's private names for what plasma has done, for benchmarks alone."""

from typing import Any

import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address


def created_bytes() -> int:
    """Return the bytes of all objects that were ever written to this node's plasma: a running
    count. Raises AttributeError if this Ray does not tell.
    """
    state: Any = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.cumulative_created_bytes)
