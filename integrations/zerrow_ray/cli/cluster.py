"""A Ray cluster, as the `zerrow` command sees it: nodes, their stores, the origins of ObjectRefs.

The command asks a store on this machine directly, and a store on another machine by way of its
agent, which serves as soon as there is a second node.
"""

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zerrow_ray import cluster
from zerrow_ray.cli.call_sites import of_frames, of_traceback
from zerrow_ray.cli.ray_cli_compat import ControlStore, Raylet, call_sites, find_addresses
from zerrow_ray.config import store_name
from zerrow_ray.references import split
from zerrow_store.cli.stores import Node, Origin
from zerrow_store.client.observe import ask
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.protocol.messages import REQUESTS, Report
from zerrow_store.protocol.sockets import running_stores
from zerrow_store.transfer import remote
from zerrow_store.transfer.channel import is_listening

logger = logging.getLogger("zerrow_ray")

_AT_ONCE = 32
_ADDRESS = "RAY_ADDRESS"
_JOB_BYTES = 4
"""A task's id ends with the id of its job. The rest is all ones for a driver."""

_ATTEMPT_BYTES = 1
"""In the reference of an object that a task puts, the first byte of the task's id is the number of
the attempt (TaskID::ForExecutionAttempt in Ray's id.cc)."""

DRIVER = "(driver)"


class RayCluster:
    """See `zerrow_store.cli.stores.Cluster`."""

    def __init__(self, control: ControlStore) -> None:
        self._control = control
        self._raylets = {raylet.id: raylet for raylet in control.raylets()}
        self._here = set(running_stores())

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""
        return [Node(each.id, each.host, each.hostname) for each in self._raylets.values()]

    def ask(self, node: Node, what: Report) -> Any:
        """Return a report of a node's store.

        Raises ZerrowError, of which StoreUnavailableError says that there is no store.
        """
        name = store_name(node.id)
        if name in self._here:
            return ask(name, REQUESTS[what]())
        location = self._control.get(cluster.location_key(node.id))
        if not location:
            raise StoreUnavailableError(f"node {node.id} has no store, or none that serves others")
        return remote.report(location.decode(), cluster.security(self._control.get), what)

    def origins(self, references: Iterable[bytes], *, sites: bool) -> dict[bytes, Origin]:
        """Return the origins of references: the tasks that returned or put the objects.

        sites: include call sites, for which all processes of all nodes are asked.
        """
        tasks = {
            _name(task): (function, site if sites else "")
            for task, function, site in self._control.tasks()
        }
        recorded = _call_sites(self._raylets.values()) if sites else {}
        return {reference: _origin(reference, tasks, recorded) for reference in references}


def _name(task: bytes) -> bytes:
    """Return the part of a task's id that all its attempts have in common."""
    return task[_ATTEMPT_BYTES:]


def _origin(
    reference: bytes, tasks: dict[bytes, tuple[str, str]], sites: dict[bytes, str]
) -> Origin:
    task = _name(split(reference)[0])
    rest, job = task[:-_JOB_BYTES], task[-_JOB_BYTES:]
    is_driver = rest == b"\xff" * len(rest)
    function, called = tasks.get(task, ("", ""))
    site = of_frames(sites.get(reference, "")) or of_traceback(called)
    return Origin(job.hex(), DRIVER if is_driver else function, site)


def _call_sites(raylets: Iterable[Raylet]) -> dict[bytes, str]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {
            reference: site for each in pool.map(_sites_of, raylets) for reference, site in each
        }


def _sites_of(raylet: Raylet) -> Iterable[tuple[bytes, str]]:
    try:
        return call_sites(raylet).items()
    except OSError as error:  # then references of this node have no call sites
        logger.warning("%s", error)
        return []


def find(address: str | None) -> RayCluster | None:
    """Return the cluster at `address`; without one, the cluster that Ray's own commands would use.

    None if there is none. Raises ValueError if there are several, or the one asked for is away.
    """
    said = address or os.environ.get(_ADDRESS)
    found = find_addresses(address)
    if not said:
        found = [each for each in found if is_listening(each)]  # Ray may remember one that ended
    if len(found) > 1:
        raise ValueError(f"several Rays run here: {', '.join(found)}. Say which by --address")
    if not found:
        return None
    if not is_listening(found[0]):
        raise ValueError(f"no Ray answers at {found[0]}")
    return RayCluster(ControlStore(found[0]))
