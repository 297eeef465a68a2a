"""The private names of Ray that the `zerrow` command uses.

`ray_compat` has all others, and says how they are checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray._private import services
from ray.core.generated.gcs_pb2 import GcsNodeInfo, TaskEvents

from zerrow_ray import ray_compat

_EXPECTED: dict[str, list[str] | None] = {
    "ray._private.services:canonicalize_bootstrap_address": ["addr"],
    "ray._private.services:find_gcs_addresses": [],
    "ray._raylet:GcsClientOptions.create": None,
    "ray._raylet:GlobalStateAccessor.connect": None,
    "ray._raylet:GlobalStateAccessor.get_task_events": None,
}

_SECONDS = 10.0

if _lacking := ray_compat.missing(_EXPECTED):
    raise ImportError(f"this Ray lacks {', '.join(_lacking)}")


def find_addresses(address: str | None) -> list[str]:
    """Return the address of the control store that Ray's own commands would use for `address`. If
    they could not decide, return those of all clusters on this machine.

    Raises ValueError or OSError for a malformed address.
    """
    found = services.canonicalize_bootstrap_address(address)
    return sorted(services.find_gcs_addresses()) if found is None else [found]


@dataclass(frozen=True)
class Raylet:
    """A node that is alive. id: in hexadecimal."""

    id: str
    host: str
    hostname: str
    port: int


class ControlStore(ray_compat.Gcs):
    """The command's connection to a cluster's control store."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._address = address

    def raylets(self) -> list[Raylet]:
        """Return the nodes that are alive."""
        return [
            Raylet(
                node.hex(),
                info.node_manager_address,
                info.node_manager_hostname,
                info.node_manager_port,
            )
            for node, info in self._client.get_all_node_info().items()
            if info.state == GcsNodeInfo.ALIVE
        ]

    def tasks(self) -> Iterator[tuple[bytes, str, str]]:
        """Yield the tasks that Ray remembers: the id, the name, and the call site, if Ray records
        these (RAY_record_task_actor_creation_sites).
        """
        options = ray._raylet.GcsClientOptions.create(
            self._address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
        )
        accessor = ray._raylet.GlobalStateAccessor(options)
        accessor.connect()
        for packed in accessor.get_task_events():
            events = TaskEvents.FromString(packed)
            if events.HasField("task_info"):
                info = events.task_info
                yield events.task_id, info.name or info.func_or_class_name, info.call_site


def call_sites(raylet: Raylet) -> dict[bytes, str]:
    """Return the call sites of the references of a node's processes, as `ray memory` shows them, if
    Ray records these (RAY_record_ref_creation_sites). Raises OSError if the node does not answer.

    The result is empty without gRPC, which `ray[default]` installs.
    """
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated.node_manager_pb2 import GetNodeStatsRequest
        from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
    except ImportError:
        return {}
    stub = NodeManagerServiceStub(init_grpc_channel(f"{raylet.host}:{raylet.port}"))
    try:
        stats = stub.GetNodeStats(GetNodeStatsRequest(include_memory_info=True), timeout=_SECONDS)
    except grpc.RpcError as error:
        raise OSError(f"node {raylet.id[:12]} does not answer: {error}") from error
    return {
        each.object_id: each.call_site
        for worker in stats.core_workers_stats
        for each in worker.object_refs
        if each.call_site and each.call_site != "disabled"
    }
