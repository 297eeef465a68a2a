"""What travels through Ray for a table: a SIPC message, its lease and its node."""

import contextlib
import pickle
from collections.abc import Callable
from typing import Any

import ray

from zerrow_ray import streams, submission
from zerrow_ray.config import INLINE_LIMIT
from zerrow_ray.session import current_session
from zerrow_store.errors import ObjectLostError
from zerrow_store.native import _native
from zerrow_store.node.client import Client

_PADDING = bytes(INLINE_LIMIT)


def publish(encode: Callable[[], _native.Encoded], wrap: Any = None) -> tuple[Any, ...]:
    """Publish what `encode` encodes under a fresh lease; return how pickle is to restore it.

    wrap: a function of this package that turns what was encoded into what was given.
    A result's message is padded beyond what Ray keeps with the owner, so that it lives in this
    node's plasma, where puts are in any case: it is lost when the data is, and Ray then runs the
    task again.
    Raises StoreFullError, StoreUnavailableError, or RayError if the node's actor is gone.
    """
    session = current_session()
    lease = padding = None
    if submission.is_put():
        encoded = encode()
        object_id, publication = session.publish_put(encoded)
        submission.add_to_put(object_id, publication)
    else:
        submission.check_argument()
        encoded, object_id, lease = session.publish(encode)
        padding = pickle.PickleBuffer(_PADDING)
    return restore, (encoded.message, object_id, lease, session.node_id, wrap, padding)


def restore(
    message: bytes,
    object_id: bytes,
    lease: ray.ObjectRef | None,
    node_id: str,
    wrap: Any,
    padding: Any,
) -> Any:
    """Return the data of a message; its buffers keep the object for as long as they are used.

    By the message's lease where it has one, else by a hold at the store.
    """
    del padding
    streams.received(lease)
    session = current_session()
    if node_id != session.node_id:
        allocations = _native.message_allocations(message)
        relocated, hold = session.fetch(node_id, object_id, allocations)
        value = _native.decode(message, (lease, hold), relocated)
    else:
        value = _decode_here(session.client, message, object_id, lease)
    return value if wrap is None else wrap(value)


def _decode_here(
    client: Client, message: bytes, object_id: bytes, lease: ray.ObjectRef | None
) -> Any:
    holding = client.begin_hold(object_id)
    value = None
    try:
        # The store answers while this process decodes what is most likely still there: if it is
        # not, somebody else's bytes may lie there by now, and the store says what happened.
        with contextlib.suppress(ObjectLostError, _native.SipcError):
            value = client.decode(message, holding.hold, {}, lease)
    finally:
        holding.confirm()
    if value is None or holding.hold.moved:
        value = client.decode(message, holding.hold, holding.hold.moved, lease)
    return value
