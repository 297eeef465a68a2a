"""Ray's private names by which a lost result is made again. Loaded when the first one is lost.

`ray_compat` has all others, and says how they are checked. All of these are messages between Ray's
own processes, over gRPC, with the token and the certificates of Ray's processes.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from zerrow_ray import ray_compat

_EXPECTED: dict[str, list[str] | None] = {
    "ray._private.grpc_utils:init_grpc_channel": ["address"],
    "ray.core.generated.core_worker_pb2:UpdateObjectLocationBatchRequest": None,
    "ray.core.generated.core_worker_pb2_grpc:CoreWorkerServiceStub": None,
    "ray.core.generated.node_manager_pb2:FreeLocalObjectsRequest": None,
    "ray.core.generated.node_manager_pb2_grpc:NodeManagerServiceStub": None,
    "ray.core.generated.gcs_service_pb2:GcsPublishRequest": None,
    "ray.core.generated.gcs_service_pb2_grpc:ControlPlanePubSubGcsServiceStub": None,
    "ray.core.generated.pubsub_pb2:PubMessage.NODE_ADDRESS_AND_LIVENESS_MESSAGE_FIELD_NUMBER": None,
}

if _lacking := ray_compat.missing(_EXPECTED):
    raise ImportError(f"this Ray lacks {', '.join(_lacking)}")

import grpc  # noqa: E402  # Ray's generated modules have it
from ray._private.grpc_utils import init_grpc_channel  # noqa: E402
from ray.core.generated import (  # noqa: E402
    core_worker_pb2,
    core_worker_pb2_grpc,
    gcs_pb2,
    gcs_service_pb2,
    gcs_service_pb2_grpc,
    node_manager_pb2,
    node_manager_pb2_grpc,
    pubsub_pb2,
)
from ray.core.generated.common_pb2 import Address  # noqa: E402

RpcError = grpc.RpcError

_SECONDS = 10.0
_NODE_ID_BYTES = 28
_BATCH_SIZE = 100
"""Ray's default. The raylet has the environment of its workers."""


def free_here(ref: ray.ObjectRef) -> None:
    """Have this node's plasma delete its copy of an object as soon as nobody uses it.

    The caller uses that copy, so what is deleted is that copy and no later one. Raises RpcError.
    """
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    with _stub(
        f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}",
        node_manager_pb2_grpc.NodeManagerServiceStub,
    ) as raylet:
        # Raylets delete in batches, or a second later. By then another copy could be there, so fill
        # the batch with ids of nothing.
        config = raylet.GetSystemConfig(node_manager_pb2.GetSystemConfigRequest(), timeout=_SECONDS)
        size = json.loads(config.system_config).get("free_objects_batch_size", _batch_size())
        batch = [ref.binary(), *(os.urandom(ref.size()) for _ in range(size))]
        request = node_manager_pb2.FreeLocalObjectsRequest(object_ids=batch)
        raylet.FreeLocalObjects(request, timeout=_SECONDS)


def forget_here(ref: ray.ObjectRef) -> None:
    """Have the owner of an object forget this node's copy, which is to be deleted.

    The caller still uses that copy, so what is forgotten is no later one. Raises RpcError.
    """
    update = core_worker_pb2.ObjectLocationUpdate(
        object_id=ref.binary(), plasma_location_update=core_worker_pb2.REMOVED
    )
    _tell_owner(ref, bytes.fromhex(ray.get_runtime_context().get_node_id()), update)


def _batch_size() -> int:
    return int(os.environ.get("RAY_free_objects_batch_size", _BATCH_SIZE))  # noqa: SIM112


def check_copies(refs: list[ray.ObjectRef]) -> None:
    """Have the owners of objects look for copies, and make again the objects that have none.

    A copy that exists becomes the primary one, and nothing else happens. Raises RpcError.

    An owner does this for objects that were spilled on a node when it hears that the node has died.
    So the objects are said to have been spilled on a node that never was, and that node is said to
    have died; nobody else knows of it.
    """
    if not refs:
        return
    nowhere = os.urandom(_NODE_ID_BYTES)
    for ref in refs:
        spilled = core_worker_pb2.ObjectSpilledLocationUpdate(spilled_to_local_storage=True)
        update = core_worker_pb2.ObjectLocationUpdate(
            object_id=ref.binary(), spilled_location_update=spilled
        )
        _tell_owner(ref, nowhere, update)
    death = pubsub_pb2.PubMessage(
        channel_type=pubsub_pb2.GCS_NODE_ADDRESS_AND_LIVENESS_CHANNEL, key_id=nowhere
    )
    death.node_address_and_liveness_message.node_id = nowhere
    death.node_address_and_liveness_message.state = gcs_pb2.GcsNodeInfo.DEAD
    with _stub(
        ray.get_runtime_context().gcs_address, gcs_service_pb2_grpc.ControlPlanePubSubGcsServiceStub
    ) as gcs:
        gcs.GcsPublish(gcs_service_pb2.GcsPublishRequest(pub_messages=[death]), timeout=_SECONDS)


def _tell_owner(ref: ray.ObjectRef, node_id: bytes, update: Any) -> None:
    """Tell the owner of an object something about its copy on a node. Raises RpcError."""
    owner = _owner(ref)
    request = core_worker_pb2.UpdateObjectLocationBatchRequest(
        intended_worker_id=owner.worker_id, node_id=node_id, object_location_updates=[update]
    )
    with _stub(
        f"{owner.ip_address}:{owner.port}", core_worker_pb2_grpc.CoreWorkerServiceStub
    ) as worker:
        worker.UpdateObjectLocationBatch(request, timeout=_SECONDS)


def _owner(ref: ray.ObjectRef) -> Any:
    core_worker = ray._private.worker.global_worker.core_worker
    return Address.FromString(core_worker.get_owner_address(ref))


@contextmanager
def _stub(address: str, stub: Any) -> Iterator[Any]:
    channel = init_grpc_channel(address)
    try:
        yield stub(channel)
    finally:
        channel.close()
