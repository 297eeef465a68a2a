"""The transfer agent of a Ray node's store, which knows the other nodes: the store's companion.

The store runs it as `python -m zerrow_ray.agent`, for as long as the store itself runs. It is not a
Ray worker, and nothing it does keeps a node from being idle. As long as there is no other node, it
only watches for one, and reports the store's metrics (`metrics`).
"""

import argparse
import logging
import os
import queue
import secrets
import socket
import threading
import time

from zerrow_ray import cluster, metrics
from zerrow_ray.ray_compat import Gcs
from zerrow_store import threads
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.protocol.sockets import transfer_address
from zerrow_store.transfer import agent
from zerrow_store.transfer.channel import join_location

logger = logging.getLogger("zerrow_ray")

_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_FOR_EACH_NODE = 0.02
_WITHDRAW_SECONDS = 2.0


class Member:
    """This node, as a member of its cluster. host: its address. node_id: in hexadecimal."""

    def __init__(self, gcs: Gcs, node_id: str, host: str) -> None:
        self._gcs = gcs
        self._node = bytes.fromhex(node_id)
        self._key = cluster.location_key(node_id)
        self._host = host
        self._location = ""
        self._known: dict[bytes, str] = {}
        self._pause = _PAUSE_SECONDS

    def metrics_address(self) -> str | None:
        """Return where Ray's agent of this node accepts metrics; None if it does not."""
        found = self._gcs.metrics_address(self._node)
        return None if found is None else join_location(*found)

    def is_alone(self) -> bool:
        """Whether there is no other node."""
        return set(self._gcs.nodes()) <= {self._node}

    def serve(self, store: str, listener: socket.socket) -> agent.Agent:
        """Become the agent of a store, and publish the location. Raises StoreUnavailableError."""
        self._gcs.put(cluster.SECRET_KEY, secrets.token_bytes(32), overwrite=False)
        served = agent.make(store, cluster.security(self._gcs.get), listener)
        self._location = served.serve_on(self._host)
        served.update(self._others())
        served.neighbours.take_up()
        served.start()  # not earlier: processes may ask for copies on other nodes
        return served

    def follow(self, served: agent.Agent) -> None:
        """Keep telling the agent which nodes there are. Never returns."""
        while True:
            try:
                served.update(self._others())
            except Exception as error:  # whatever Ray raises while its control store is away
                logger.warning("cannot ask for the cluster's nodes: %s", error)
            self.pause()

    def pause(self) -> None:
        """Wait until the next look; longer in a larger cluster, all nodes of which look."""
        time.sleep(self._pause)

    def withdraw(self) -> None:
        """Publish that the store has ended: no objects belong to its processes any more."""
        if self._location:
            self._gcs.put(self._key, cluster.NOWHERE, overwrite=True)

    def _others(self) -> dict[bytes, str]:
        """Return the locations of the other nodes' agents.

        Publish this node's location again if the control store does not have it: one that was
        restarted has forgotten everything. It may not know the other nodes either; then their last
        known locations are kept.
        """
        alive = set(self._gcs.nodes())
        if self._node not in alive:
            return self._known
        self._pause = _PAUSE_SECONDS + _PAUSE_SECONDS_FOR_EACH_NODE * len(alive)
        keys = {cluster.location_key(node.hex()): node for node in alive}
        values = self._gcs.get_all(list(keys))
        if values.get(self._key) != self._location.encode():
            self._gcs.put(self._key, self._location.encode(), overwrite=True)
        ended = {keys[key] for key, value in values.items() if value == cluster.NOWHERE}
        others = alive - ended - {self._node}
        said = {keys[key]: value.decode() for key, value in values.items()}
        self._known = {node: said.get(node, self._known.get(node, "")) for node in others}
        return self._known


def _end_with(store: str, members: "queue.SimpleQueue[Member]") -> None:
    """End this process with the store, even if it waits for Ray, which may have ended as well."""
    agent.wait_for_end(store)
    threading.Timer(_WITHDRAW_SECONDS, os._exit, [0]).start()
    try:
        if not members.empty():
            members.get().withdraw()
    finally:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="The transfer agent of a Ray node's store.")
    parser.add_argument("--store", required=True)
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--gcs-address", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--session", required=True, help="the name of this Ray, for its metrics")
    arguments = parser.parse_args()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(transfer_address(arguments.store))
    except OSError:
        return  # there is one already
    members: queue.SimpleQueue[Member] = queue.SimpleQueue()
    threads.start(_end_with, arguments.store, members, name="zerrow-agent-end")
    member = Member(Gcs(arguments.gcs_address), arguments.node_id, arguments.host)
    members.put(member)
    labels = {
        "Component": "zerrow_store",
        "NodeAddress": arguments.host,
        "SessionName": arguments.session,
    }
    reporting = (arguments.store, member.metrics_address, labels)
    threads.start(metrics.report, *reporting, name="zerrow-metrics")
    while member.is_alone():
        member.pause()
    listener.listen(512)
    try:
        served = member.serve(arguments.store, listener)
    except StoreUnavailableError as error:
        logger.warning("the transfer agent ends: %s", error)
        os._exit(0)
    member.follow(served)


if __name__ == "__main__":
    main()
