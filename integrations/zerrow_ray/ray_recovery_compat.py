"""Ray's private names by which a lost result is made again.

`ray_compat` has all others, and says how they are checked. Most of these are messages between Ray's
own processes, over gRPC, with the token and the certificates of Ray's processes; they are checked
and loaded when the first result is lost.
"""

import functools
import json
import logging
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray._private.serialization import SerializationContext
from ray._private.worker import Worker
from ray.core.generated.common_pb2 import Address
from ray.exceptions import RaySystemError

from zerrow_ray import ray_compat

_READING: dict[str, list[str] | None] = {
    "ray._private.worker:Worker.get_objects": ["self", "object_refs", "timeout"],
    "ray._private.worker:global_worker.function_actor_manager.lock": None,
    "ray._private.serialization:SerializationContext.deserialize_objects": [
        "self",
        "serialized_ray_objects",
        "object_refs",
        "rdt_objects",
    ],
}
"""What `read_through` needs."""

_TELLING: dict[str, list[str] | None] = {
    "ray._raylet:CoreWorker.get_all_reference_counts": None,
    "ray._raylet:CoreWorker.object_exists": None,
    "ray._private.grpc_utils:init_grpc_channel": ["address"],
    "ray.core.generated.core_worker_pb2:UpdateObjectLocationBatchRequest": None,
    "ray.core.generated.core_worker_pb2:GetObjectLocationsOwnerRequest": None,
    "ray.core.generated.pubsub_pb2:WorkerObjectLocationsPubMessage.PENDING_CREATION_FIELD_NUMBER": (
        None
    ),
    "ray.core.generated.core_worker_pb2_grpc:CoreWorkerServiceStub": None,
    "ray.core.generated.node_manager_pb2:FreeLocalObjectsRequest": None,
    "ray.core.generated.node_manager_pb2_grpc:NodeManagerServiceStub": None,
    "ray.core.generated.gcs_service_pb2:GcsPublishRequest": None,
    "ray.core.generated.gcs_service_pb2_grpc:ControlPlanePubSubGcsServiceStub": None,
    "ray.core.generated.pubsub_pb2:PubMessage.NODE_ADDRESS_AND_LIVENESS_MESSAGE_FIELD_NUMBER": None,
}
"""What the rest needs. Loads gRPC, if it is installed."""

_EXPECTED = _READING | _TELLING

_SECONDS = 10.0
_NODE_ID_BYTES = 28
_BATCH_SIZE = 100
"""Ray's default. The raylet has the environment of its workers."""

RAYS_THREAD = "worker.io"
"""The name of the thread that answers an await, or what waits for a future."""

_noted: set[int] = set()
"""Threads that have noted that what they deserialize is lost."""


def lacking_to_read() -> list[str]:
    """Return the names that this Ray lacks for `read_through`."""
    return ray_compat.missing(_READING)


@functools.cache
def lacking_to_tell() -> list[str]:
    """Return the names that this Ray lacks for everything else here."""
    return ray_compat.missing(_TELLING)


class Lost:
    """Objects that this thread could not deserialize, as it was told by `note_lost`.

    refs: theirs. is_get: whether a get reads them, and no arguments nor an await; timeout: its own.
    While their messages are not dropped, no others can take their places in this node's plasma.
    """

    def __init__(self, refs: list[ray.ObjectRef], messages: list[Any]) -> None:
        self.refs = refs
        self._messages = messages
        frame = _frame_of(Worker.get_objects)
        self.is_get = frame is not None
        self.timeout: float | None = None if frame is None else frame.f_locals["timeout"]

    def drop_messages(self) -> None:
        """Let go of the messages that this thread's get has read; nobody else reads them.

        An error that it raises would keep them, as the values of its frame refer to the error.
        """
        self._messages.clear()


def note_lost() -> None:
    """Note that this thread is about to fail to deserialize an object, as that is lost."""
    _noted.add(threading.get_ident())


def read_through(
    is_lost: Callable[[object], bool], lost: Callable[[Lost], dict[ray.ObjectRef, Any]]
) -> None:
    """Call `lost` when objects fail to deserialize with such errors, which were noted, and let the
    values that it returns take the errors' places.

    Other threads of this process can deserialize meanwhile. The new method has the parameters of
    Ray's own one, and passes on no others: these would cost each read of Ray's a microsecond.
    """
    original = SerializationContext.deserialize_objects

    @functools.wraps(original)
    def deserialize_objects(
        self: SerializationContext, serialized: list[Any], object_refs: Any, rdt_objects: Any = None
    ) -> Any:
        values = original(self, serialized, object_refs, rdt_objects)
        if _noted:
            values = replaced(serialized, object_refs, values)
        return values

    def replaced(serialized: list[Any], refs: list[Any], values: list[Any]) -> list[Any]:
        if threading.get_ident() not in _noted:
            return values
        _noted.discard(threading.get_ident())
        errors = {
            ref: value.client_exc
            for ref, value in zip(refs, values, strict=True)
            if type(value) is RaySystemError and is_lost(value.client_exc) and ref is not None
        }
        for error in errors.values():  # its frames refer to the messages
            error.__traceback__ = error.__context__ = error.__cause__ = None
        with _unlocked():
            found = lost(Lost(list(errors), serialized)) if errors else {}
        return [found.get(ref, value) for ref, value in zip(refs, values, strict=True)]

    SerializationContext.deserialize_objects = deserialize_objects
    # Ray logs what it then returns as the value, or raises.
    logger = logging.getLogger(SerializationContext.__module__)
    logger.addFilter(lambda record: not is_lost(record.msg))


def _frame_of(function: Any) -> FrameType | None:
    """Return the frame of a function that has called this one, through others or not."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame


@contextmanager
def _unlocked() -> Iterator[None]:
    """Give back the lock with which Ray lets one thread at a time deserialize."""
    lock = ray._private.worker.global_worker.function_actor_manager.lock
    lock.release()
    try:
        yield
    finally:
        lock.acquire()


def may_wait_for_ray() -> bool:
    """Whether this thread is none of Ray's own, which its processes' answers come to."""
    return Path("/proc/thread-self/comm").read_text().strip() != RAYS_THREAD


def actor_id() -> str | None:
    """Return the id of this process's actor."""
    own: str | None = ray.get_runtime_context().get_actor_id()
    return own


def actor_of(ref: ray.ObjectRef) -> str:
    """Return the id of the actor whose call a reference is a result of; nobody's id if of none."""
    of: str = ref.task_id().actor_id().hex()
    return of


def owns_references() -> bool:
    """Whether this process owns references, which would end with it."""
    known = _core_worker().get_all_reference_counts()
    owners = (ray_compat.owner_of(bytes.fromhex(each.decode())) for each in known)
    return any(owner is not None and owner[0] == ray_compat.worker_id() for owner in owners)


def has_message(ref: ray.ObjectRef) -> bool:
    """Whether this node's plasma has a copy of an object."""
    found: bool = _core_worker().object_exists(ref)
    return found


def make_again(refs: list[ray.ObjectRef]) -> None:
    """Have the owners of objects make them again, unless there are copies on other nodes; this
    node's copies are worthless, and deleted as soon as nobody uses them.

    The caller uses this node's copies meanwhile, so that what is forgotten and deleted are no later
    ones. If an owner has ended with its node, the copy is deleted, and Ray says what happened.
    Raises OSError if one of Ray's processes does not answer.
    """
    with _as_os_errors():
        here = bytes.fromhex(ray.get_runtime_context().get_node_id())
        _tell_owners(refs, here, plasma_location_update="REMOVED")
        look_for_copies(refs)
        _delete_here(refs)


def look_for_copies(refs: list[ray.ObjectRef]) -> None:
    """Have the owners of objects make sure that these have copies, or are being made, or that
    whoever waits for them is told that they are lost. Raises OSError.

    An owner does this for objects that were spilled on a node when it hears that the node has died.
    So the objects are said to have been spilled on a node that never was, and that node is said to
    have died; nobody else knows of it.
    """
    with _as_os_errors():
        nowhere = os.urandom(_NODE_ID_BYTES)
        _tell_owners(refs, nowhere, spilled_location_update={"spilled_to_local_storage": True})
        _publish_death(nowhere)


@contextmanager
def _as_os_errors() -> Iterator[None]:
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        raise OSError(str(error)) from error


def _tell_owners(refs: list[ray.ObjectRef], node_id: bytes, **what: Any) -> None:
    """Tell the owners of objects something about the copies on a node, each owner at once; not
    those that have ended with their nodes.
    """
    from ray.core.generated import core_worker_pb2

    for owner, worker_id, owned in _owners(refs):
        updates = [
            core_worker_pb2.ObjectLocationUpdate(object_id=ref.binary(), **what) for ref in owned
        ]
        request = core_worker_pb2.UpdateObjectLocationBatchRequest(
            intended_worker_id=worker_id, node_id=node_id, object_location_updates=updates
        )
        owner.UpdateObjectLocationBatch(request, timeout=_SECONDS)


def nodes_with(refs: list[ray.ObjectRef]) -> dict[ray.ObjectRef, set[str]]:
    """Return, of those objects that are not being made now, the nodes that have copies of their
    messages, as the owners know; not of those whose owners have ended with their nodes. Raises
    OSError.
    """
    from ray.core.generated import core_worker_pb2

    found = {}
    with _as_os_errors():
        for owner, worker_id, owned in _owners(refs):
            request = core_worker_pb2.GetObjectLocationsOwnerRequest(
                intended_worker_id=worker_id, object_ids=[ref.binary() for ref in owned]
            )
            known = owner.GetObjectLocationsOwner(request, timeout=_SECONDS).object_location_infos
            for ref, each in zip(owned, known, strict=True):
                if not each.pending_creation:
                    found[ref] = {node.hex() for node in each.node_ids}
    return found


def _owners(refs: list[ray.ObjectRef]) -> Iterator[tuple[Any, bytes, list[ray.ObjectRef]]]:
    """Yield the owners of objects, each with its worker's id and those of the objects that it owns;
    not those that have ended with their nodes.
    """
    from ray.core.generated import core_worker_pb2_grpc

    ended = {bytes.fromhex(node["NodeID"]) for node in ray.nodes() if not node["Alive"]}
    owned = defaultdict(list)
    for ref in refs:
        if (known := ray_compat.owner_of(ref.binary())) and known[1] not in ended:
            owned[_core_worker().get_owner_address(ref)].append(ref)
    for serialized, of_owner in owned.items():
        owner = Address.FromString(serialized)
        address = f"{owner.ip_address}:{owner.port}"
        with _stub(address, core_worker_pb2_grpc.CoreWorkerServiceStub) as worker:
            yield worker, owner.worker_id, of_owner


def _publish_death(node_id: bytes) -> None:
    from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc, pubsub_pb2

    death = pubsub_pb2.PubMessage(
        channel_type=pubsub_pb2.GCS_NODE_ADDRESS_AND_LIVENESS_CHANNEL, key_id=node_id
    )
    death.node_address_and_liveness_message.node_id = node_id
    death.node_address_and_liveness_message.state = gcs_pb2.GcsNodeInfo.DEAD
    request = gcs_service_pb2.GcsPublishRequest(pub_messages=[death])
    address = ray.get_runtime_context().gcs_address
    with _stub(address, gcs_service_pb2_grpc.ControlPlanePubSubGcsServiceStub) as gcs:
        gcs.GcsPublish(request, timeout=_SECONDS)


def _delete_here(refs: list[ray.ObjectRef]) -> None:
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with _stub(address, node_manager_pb2_grpc.NodeManagerServiceStub) as raylet:
        # Raylets delete in batches, or a second later. By then other copies could be there, so fill
        # the batch with ids of nothing.
        config = raylet.GetSystemConfig(node_manager_pb2.GetSystemConfigRequest(), timeout=_SECONDS)
        size = json.loads(config.system_config).get("free_objects_batch_size", _batch_size())
        ids = [ref.binary() for ref in refs]
        batch = ids + [os.urandom(len(ids[0])) for _ in range(size)]
        request = node_manager_pb2.FreeLocalObjectsRequest(object_ids=batch)
        raylet.FreeLocalObjects(request, timeout=_SECONDS)


def _batch_size() -> int:
    # The name is Ray's.
    return int(os.environ.get("RAY_free_objects_batch_size", _BATCH_SIZE))  # noqa: SIM112


def _core_worker() -> Any:
    return ray._private.worker.global_worker.core_worker


@contextmanager
def _stub(address: str, stub: Any) -> Iterator[Any]:
    from ray._private.grpc_utils import init_grpc_channel

    channel = init_grpc_channel(address)
    try:
        yield stub(channel)
    finally:
        channel.close()
