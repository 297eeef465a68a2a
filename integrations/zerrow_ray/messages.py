"""Messages: what travels through Ray in place of a table.

A pickled table is its SIPC message, the id of its object, and the node whose store has the object.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from zerrow_ray import serialization, transfers
from zerrow_ray.kinds import Kind, Reduced
from zerrow_ray.ray_compat import Purpose
from zerrow_ray.serialization import Published
from zerrow_ray.session import current_session
from zerrow_ray.travelling import Travelling
from zerrow_store.client.client import Client
from zerrow_store.client.publications import Publication
from zerrow_store.errors import ObjectLostError
from zerrow_store.native import _native


def publish(
    encode: Callable[[], _native.Encoded], value: Any, kind: Kind, *, wrap: Any = None
) -> Reduced:
    """Publish what `encode` encodes of `value`; return the reduction by which pickle restores it.

    wrap: a function of this package that converts the decoded data back to the type of `value`.
    For a put, the store takes the object while the pickler goes on; the pickler waits at the end.
    Raises StoreFullError, StoreUnavailableError, NoOwnerError.
    """
    reduced, object_id, publication = _begin(encode, wrap)
    if publication is not None:
        serialization.current().published[object_id] = Published(publication, value, kind)
    return reduced


def publish_buffers(buffers: list[memoryview]) -> Reduced:
    """Publish contiguous buffers; return the reduction by which pickle restores a list of them.

    Raises as `publish` does.
    """
    # Pass Arrow's buffers as such: anything else that is writable may still change.
    own = [view.obj if isinstance(view.obj, pa.Buffer) else view for view in buffers]
    reduced, object_id, publication = _begin(
        lambda: _native.encode_buffers(b"", own, move=True), _buffers
    )
    if publication is not None:
        publication.wait()
        serialization.current().buffers = object_id
    return reduced


def _begin(
    encode: Callable[[], _native.Encoded], wrap: Any
) -> tuple[Reduced, bytes, Publication | None]:
    """Publish an object of the put or result that is being serialized."""
    session = current_session()
    publication = None
    if serialization.current().purpose is Purpose.PUT:
        encoded = encode()
        object_id, publication = session.publish_put(encoded)
    else:
        encoded, object_id = session.publish(encode)
    under_way = serialization.current()
    under_way.bytes_stored += encoded.bytes_shared + encoded.bytes_reshared + encoded.bytes_copied
    if under_way.travelling is None:
        under_way.travelling = Travelling(session.node_id, {})
    under_way.travelling.objects[object_id] = _native.message_allocations(encoded.message)
    reduced = restore, (encoded.message, object_id, session.node_id, wrap)
    return reduced, object_id, publication


def _buffers(parts: tuple[bytes, list[Any]]) -> list[Any]:
    return parts[1]


class _Thread(threading.local):
    substitutes: Mapping[bytes, Any] = MappingProxyType({})


_thread = _Thread()


@contextlib.contextmanager
def substituting(values: Mapping[bytes, Any]) -> Iterator[None]:
    """Within the block, restore the objects with these ids to these values.

    The store has not taken them.
    """
    outer, _thread.substitutes = _thread.substitutes, values
    try:
        yield
    finally:
        _thread.substitutes = outer


def restore(message: bytes, object_id: bytes, node_id: str, wrap: Any) -> Any:
    """Return the data of a message; its buffers keep the object for as long as they are used."""
    if object_id in _thread.substitutes:
        return _thread.substitutes[object_id]
    session = current_session()
    if node_id == session.node_id:
        value = _decode_here(session.client, message, object_id)
    else:
        value = _decode_from(node_id, session.client, message, object_id)
    return value if wrap is None else wrap(value)


def _decode_from(node_id: str, client: Client, message: bytes, object_id: bytes) -> Any:
    allocations = _native.message_allocations(message)
    copy = client.hold_copy(object_id, allocations)
    if copy is not None:
        return client.decode(message, copy, copy.moved)
    # Fetch in this thread: Ray holds the worker's lock while it deserializes, so a `ray.get` in
    # another thread would wait for that lock.
    relocated, hold = transfers.fetch(client, node_id, object_id, allocations)
    return _native.decode(message, hold, relocated)


def _decode_here(client: Client, message: bytes, object_id: bytes) -> Any:
    holding = client.begin_hold(object_id)
    value = None
    try:
        # Decode while the store answers: the object is most likely still there. If it is not, other
        # bytes may lie there by now; the store's answer says so.
        with contextlib.suppress(ObjectLostError, _native.SipcError):
            value = client.decode(message, holding.hold, {})
    finally:
        holding.confirm()
    if value is None or holding.hold.moved:
        value = client.decode(message, holding.hold, holding.hold.moved)
    return value
