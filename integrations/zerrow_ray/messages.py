"""What travels through Ray for a table: a SIPC message, its lease and its node."""

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import ray

from zerrow_ray import serialization, streams
from zerrow_ray.config import INLINE_LIMIT
from zerrow_ray.kinds import Kind, Reduced
from zerrow_ray.ray_compat import Purpose
from zerrow_ray.serialization import Published
from zerrow_ray.session import current_session
from zerrow_store.errors import ObjectLostError
from zerrow_store.native import _native
from zerrow_store.node.client import Client, Publication

_PADDING = bytes(INLINE_LIMIT)


def publish(
    encode: Callable[[], _native.Encoded], value: Any, kind: Kind, *, wrap: Any = None
) -> Reduced:
    """Publish what `encode` encodes of `value`; return how pickle is to restore it.

    wrap: a function of this package that turns what was encoded into what was given.
    What is put is taken by the store while the pickler goes on, which waits for it at the end.
    Raises StoreFullError, StoreUnavailableError, or RayError if the node's actor is gone.
    """
    reduced, object_id, publication = _begin(encode, wrap)
    if publication is not None:
        serialization.current().published[object_id] = Published(publication, value, kind)
    return reduced


def publish_buffers(buffers: list[Any]) -> Reduced:
    """Publish contiguous buffers; return how pickle is to restore a list of them. Raises as
    `publish` does.
    """
    reduced, object_id, publication = _begin(
        lambda: _native.encode_buffers(b"", buffers, move=True), _buffers
    )
    if publication is not None:
        publication.wait()
        serialization.current().buffers = object_id
    return reduced


def _begin(
    encode: Callable[[], _native.Encoded], wrap: Any
) -> tuple[Reduced, bytes, Publication | None]:
    """Publish as a put's object or a result's.

    A result's message is padded beyond what Ray keeps with the owner, so that it lives in this
    node's plasma, where puts are in any case: it is lost when the data is, and Ray then runs the
    task again.
    """
    session = current_session()
    lease = padding = publication = None
    if serialization.current().purpose is Purpose.PUT:
        encoded = encode()
        object_id, publication = session.publish_put(encoded)
    else:
        encoded, object_id, lease = session.publish(encode)
        padding = pickle.PickleBuffer(_PADDING)
    reduced = restore, (encoded.message, object_id, lease, session.node_id, wrap, padding)
    return reduced, object_id, publication


def _buffers(parts: tuple[bytes, list[Any]]) -> list[Any]:
    return parts[1]


class _Thread(threading.local):
    substitutes: Mapping[bytes, Any] = MappingProxyType({})


_thread = _Thread()


@contextlib.contextmanager
def substituting(values: Mapping[bytes, Any]) -> Iterator[None]:
    """Restore these objects, by id, to these values: the store has not taken them."""
    outer, _thread.substitutes = _thread.substitutes, values
    try:
        yield
    finally:
        _thread.substitutes = outer


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
    if object_id in _thread.substitutes:
        return _thread.substitutes[object_id]
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
