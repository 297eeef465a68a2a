"""Whether data is large enough for a reference to pay: the break-even with Ray's own path.

It is lower on a node that is alone: another node asks for the data when it has the message, and
waits for both, which small data is copied sooner than.
"""

import socket
from collections.abc import Callable

import ray

from zerrow_ray.config import plugin_config, store_name
from zerrow_store.protocol.sockets import transfer_address

_with_neighbours: set[str] = set()
"""The nodes, in hexadecimal, that are known not to be alone."""


def pays(reaches: Callable[[int], bool]) -> bool:
    """Whether data is to go by reference. reaches: whether it has so many bytes."""
    config = plugin_config()
    if not reaches(config.threshold):
        return False
    return reaches(config.threshold_between_nodes) or not _has_neighbours()


def _has_neighbours() -> bool:
    """Whether this node's store serves other nodes: its agent listens only if there are any."""
    node_id = ray.get_runtime_context().get_node_id()
    if node_id in _with_neighbours:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(transfer_address(store_name(node_id)))
        except BlockingIOError:
            pass  # many connect at once
        except OSError:
            return False
    _with_neighbours.add(node_id)
    return True
