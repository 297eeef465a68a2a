"""Whether this node is alone, or one of several."""

import socket
import time

import ray

from zerrow_ray.config import store_name
from zerrow_store.protocol.sockets import transfer_address

_PAUSE_SECONDS = 1.0

_with_neighbours: set[str] = set()
"""The nodes, in hexadecimal, that are known not to be alone."""

_alone_until = 0.0


def has_neighbours() -> bool:
    """Whether this node's store serves other nodes: its agent listens only if there are any. A node
    that was alone is looked at again a second later.
    """
    global _alone_until
    if time.monotonic() < _alone_until:
        return False
    node_id = ray.get_runtime_context().get_node_id()
    if node_id not in _with_neighbours:
        if not _is_listening(node_id):
            _alone_until = time.monotonic() + _PAUSE_SECONDS
            return False
        _with_neighbours.add(node_id)
    return True


def _is_listening(node_id: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(transfer_address(store_name(node_id)))
        except BlockingIOError:
            pass  # many connect at once
        except OSError:
            return False
    return True
