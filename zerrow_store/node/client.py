"""A process's connection to a node store.

`Client` is safe to use from any thread. One background thread reads replies and events, reconnects
when
the store was restarted, and sends again what was under way; another one releases what was held.
What it publishes stays pinned in this process's arena for as long as the store's books refer to it.

An allocation is registered by the first publication that names it and freed by one event; both are
handled by the reading thread, in the order in which the store sent them, so that a pin is never
taken for another's.
"""

import contextlib
import itertools
import logging
import os
import queue
import socket
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from zerrow_store import errors
from zerrow_store.errors import ObjectExistsError, ProtocolError, StoreUnavailableError
from zerrow_store.native import _native
from zerrow_store.node import protocol
from zerrow_store.node.books import unpack

logger = logging.getLogger("zerrow_store")

_RECONNECT_SECONDS = 15.0
_ARROW_DATA = (pa.Table, pa.RecordBatch, pa.ChunkedArray, pa.Array)

Allocations = list[tuple[bytes, int, int]]


@dataclass(frozen=True)
class ObjectInfo:
    """An object in the store. `nbytes`: what it refers to; `holds`: connections' views of it."""

    object_id: bytes
    nbytes: int
    created: float
    holds: int
    transient: bool


@dataclass(frozen=True)
class StoreStats:
    """Figures of a store; sizes in bytes. `bytes_stored` is held now, each byte once; the other
    `bytes_*` are running counts of what was published where it lay, referred to in somebody else's
    segment, and copied."""

    objects: int
    bytes_stored: int
    bytes_shared: int
    bytes_reshared: int
    bytes_copied: int
    budget: int
    segments: int
    clients: int
    pid: int
    supervised: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


class _Hold:
    """Keeps an object in the store until it is collected."""

    __slots__ = ("__weakref__", "_object_id", "_pid", "_releases")

    def __init__(self, object_id: bytes, releases: "queue.SimpleQueue[bytes | None]") -> None:
        self._object_id = object_id
        self._releases = releases
        self._pid = os.getpid()

    def __del__(self) -> None:
        # SimpleQueue.put is safe here: it takes no lock that this thread could hold already.
        if self._pid == os.getpid():
            self._releases.put(self._object_id)


@dataclass
class _Request:
    kind: str
    body: Any
    own: bytes
    future: "Future[Any]"
    sent_before: bool = False


class Client:
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start()
        _clients.add(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards the socket's sending side and the two below
        self._requests: dict[int, _Request] = {}
        self._ids = itertools.count(1)
        self._attached = False
        self._registered: set[int] = set()
        self._held: Counter[bytes] = Counter()
        self._releases: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._socket, self._reader = self._greet()
        threading.Thread(target=self._read, name="zerrow-client", daemon=True).start()
        threading.Thread(target=self._release, name="zerrow-release", daemon=True).start()

    # --- objects ---

    def put(self, obj: Any, *, object_id: bytes | None = None) -> bytes:
        """Store Arrow data; returns its id.

        obj: Table, RecordBatch, ChunkedArray or Array, or anything that exports an Arrow stream
        (polars, duckdb, nanoarrow), which is stored as a Table.
        Raises StoreFullError, ObjectExistsError, TypeError.
        """
        if not isinstance(obj, _ARROW_DATA):
            if not hasattr(obj, "__arrow_c_stream__"):
                raise TypeError(f"not Arrow data: {type(obj).__name__}")
            obj = pa.table(obj)
        object_id = os.urandom(16) if object_id is None else object_id
        encoded = _native.encode(obj)
        self.publish(object_id, encoded, encoded.message)
        return object_id

    def get(self, object_id: bytes) -> Any:
        """Return an object's data, read-only, where it lies; it stays until the last view is gone.

        Raises ObjectNotFoundError.
        """
        message, _ = self._request("get", [object_id])
        hold = self._hold(object_id)
        if message is None:
            raise errors.ObjectNotFoundError(object_id)
        self.ensure_segments(_native.message_segments(message))
        return _native.decode(message, hold)

    def delete(self, object_ids: bytes | Iterable[bytes], *, missing_ok: bool = False) -> None:
        """Delete objects. Their memory goes when the last view does. Raises ObjectNotFoundError."""
        ids = [object_ids] if isinstance(object_ids, bytes) else list(object_ids)
        self._request("delete", [ids, missing_ok])

    def list(self) -> list[ObjectInfo]:
        """Return the objects in the store."""
        return [ObjectInfo(*entry) for entry in self._request("list", [])]

    def stats(self) -> StoreStats:
        """Return the store's figures."""
        return StoreStats(**self._request("stats", []))

    # --- below: for those who carry messages themselves ---

    def publish(
        self,
        object_id: bytes,
        encoded: _native.Encoded,
        message: bytes | None = None,
        *,
        transient: bool = False,
        owned: bool = False,
    ) -> bytes:
        """Enter an encoded message's allocations into the books; returns the supervisor's id.

        message: kept for `get`, if given. A transient object goes when its last hold does, an owned
        one when this process ends, if it was not deleted before.
        On failure the allocations are unpinned. Raises StoreFullError, ObjectExistsError,
        ObjectLostError.
        """
        self._after_fork()
        counters = [encoded.bytes_shared, encoded.bytes_reshared, encoded.bytes_copied]
        body = [object_id, encoded.own, encoded.foreign, message, transient, owned, counters]
        try:
            if encoded.own or owned:
                self._attach()
            (supervisor_id,) = self._request("put", body, own=encoded.own)
        except BaseException:
            _native.unpin(_offsets(encoded.own))
            raise
        return bytes(supervisor_id)

    def hold(self, object_id: bytes) -> object:
        """Return something that keeps the object in the store until it is collected."""
        self._request("hold", [object_id])
        return self._hold(object_id)

    def allocations(self, object_id: bytes) -> Allocations:
        """Return the allocations (segment, offset, size) of an object, which the caller must
        hold.
        """
        _, allocations = self._request("get", [object_id])
        self._hold(object_id)
        return [(bytes(s), o, size) for s, packed in allocations for o, size in unpack(packed)]

    def ensure_segments(self, segment_ids: Iterable[bytes]) -> None:
        """Map segments that are not mapped yet. Raises ObjectLostError for one that is gone."""
        missing = list(set(segment_ids) - set(_native.mapped_segments()))
        for start in range(0, len(missing), protocol.MAX_DESCRIPTORS):
            part = missing[start : start + protocol.MAX_DESCRIPTORS]
            self._request("segments", [part])

    def shutdown(self) -> None:
        """End the store, supervised or not."""
        self._request("shutdown", [])

    def close(self) -> None:
        """Disconnect. Views stay valid only as long as somebody else holds their objects."""
        with self._lock:
            self._closed = True
            self._releases.put(None)
            _shut(self._socket)

    # --- connection ---

    def _greet(self) -> tuple[socket.socket, protocol.FrameReader]:
        """Connect, say hello, and take up again what a restarted store has to know."""
        connection = protocol.connect(self._name)
        reader = protocol.FrameReader()
        try:
            self._call(connection, reader, "hello", [protocol.PROTOCOL_VERSION, "client", b""])
            if self._attached:
                (live,) = self._call(connection, reader, "attach", *_own_segment())
                gone = self._registered - {offset for (offset,) in struct.iter_unpack("<Q", live)}
                self._registered -= gone
                _native.unpin(struct.pack(f"<{len(gone)}Q", *gone))
            for object_id, count in list(self._held.items()):
                for _ in range(count):
                    self._call(connection, reader, "hold", [object_id])
        except (OSError, ProtocolError) as error:
            connection.close()
            raise StoreUnavailableError(f"the store {self._name!r} hung up: {error}") from error
        return connection, reader

    def _call(
        self,
        connection: socket.socket,
        reader: protocol.FrameReader,
        kind: str,
        body: Any,
        fds: Iterable[int] = (),
    ) -> Any:
        """Send one request and wait for its reply, before the reading thread takes over."""
        protocol.send(connection, protocol.pack(kind, 1, body), list(fds))
        while True:
            while (frame := reader.next()) is None:
                if not reader.feed(connection):
                    raise ProtocolError("the store hung up on the greeting: another version?")
            if frame[0] == "reply":
                return frame[2]
            if frame[0] == "error":
                logger.warning("the store did not take up %s again: %s", kind, frame[2])
                return None

    def _attach(self) -> None:
        with self._lock:
            if self._attached:
                return
            self._attached = True
        body, fds = _own_segment()
        try:
            self._request("attach", body, fds=fds)
        except BaseException:
            self._attached = False
            raise

    def _request(self, kind: str, body: Any, *, own: bytes = b"", fds: Iterable[int] = ()) -> Any:
        self._after_fork()
        request = _Request(kind, body, own, Future())
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"this client of the store {self._name!r} is closed")
            request_id = next(self._ids)
            self._requests[request_id] = request
            try:
                protocol.send(self._socket, protocol.pack(kind, request_id, body), list(fds))
            except OSError:
                pass  # the reading thread sees it too, and sends again once it has reconnected
            except BaseException:
                del self._requests[request_id]
                raise
        return request.future.result()

    def _read(self) -> None:
        while True:
            try:
                while (frame := self._reader.next()) is None:
                    if not self._reader.feed(self._socket):
                        raise ConnectionResetError("the store hung up")
                self._handle(*frame)
            except (OSError, ProtocolError) as error:
                if self._closed or not self._reconnect():
                    self._fail(error)
                    return

    def _handle(self, kind: str, request_id: int, body: Any) -> None:
        if kind == "freed":
            self._registered.difference_update(o for (o,) in struct.iter_unpack("<Q", body))
            _native.unpin(body)
        elif kind == "segment_gone":
            _native.unmap_segment(body)
        elif kind in ("reply", "error"):
            with self._lock:
                request = self._requests.pop(request_id)
            try:
                result = self._conclude(request, kind, body)
            except Exception as error:
                request.future.set_exception(error)
            else:
                request.future.set_result(result)
        else:
            raise ProtocolError(f"the store sent {kind!r}")

    def _conclude(self, request: _Request, kind: str, body: Any) -> Any:
        if kind == "error":
            name, arguments = body
            error = _make_error(name, arguments)
            # Sent twice around a crash of the store, and the first time has counted.
            if not (isinstance(error, ObjectExistsError) and request.sent_before):
                raise error
            body = [b""]
        if request.kind == "put":
            again = []
            for offset, _ in unpack(request.own):
                if offset in self._registered:
                    again.append(offset)
                self._registered.add(offset)
            # One pin for each allocation in the books is enough.
            _native.unpin(struct.pack(f"<{len(again)}Q", *again))
        elif request.kind in ("get", "hold"):
            self._held[request.body[0]] += 1
        elif request.kind == "segments":
            for segment_id, size in zip(request.body[0], body[0], strict=True):
                fd = self._reader.take_descriptor()
                try:
                    _native.map_segment(segment_id, fd, size)
                finally:
                    os.close(fd)
        return body

    def _reconnect(self) -> bool:
        deadline = time.monotonic() + _RECONNECT_SECONDS
        wait = 0.02
        while time.monotonic() < deadline and not self._closed:
            try:
                connection, reader = self._greet()
            except StoreUnavailableError:
                time.sleep(wait)
                wait = min(2 * wait, 0.5)
                continue
            with self._lock:
                _shut(self._socket)
                self._socket.close()
                self._reader.close()
                self._socket, self._reader = connection, reader
                for request_id, request in self._requests.items():
                    request.sent_before = True
                    body, fds = request.body, list[int]()
                    if request.kind == "attach":
                        body, fds = _own_segment()
                    frame = protocol.pack(request.kind, request_id, body)
                    protocol.send(connection, frame, fds)
            return True
        return False

    def _fail(self, error: Exception) -> None:
        """The store is gone for good: whoever waits, or asks later, is told."""
        with self._lock:
            self._closed = True
            self._releases.put(None)
            self._socket.close()
            self._reader.close()
            requests, self._requests = self._requests, {}
        for request in requests.values():
            reason = StoreUnavailableError(f"the store {self._name!r} is gone: {error}")
            request.future.set_exception(reason)

    def _hold(self, object_id: bytes) -> _Hold:
        return _Hold(object_id, self._releases)

    def _release(self) -> None:
        releases = self._releases
        while (object_id := releases.get()) is not None:
            ids = [object_id]
            while not releases.empty():
                following = releases.get()
                if following is None:
                    return
                ids.append(following)
            self._held.subtract(ids)
            self._held += Counter()
            with self._lock:
                if self._closed:
                    return
                # A restarted store learns only of what is still held.
                with contextlib.suppress(OSError):
                    protocol.send(self._socket, protocol.pack("release", 0, [ids]))

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._start()


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _close_in_child() -> None:
    # The parent's connection is the parent's alone: its end must be seen when the parent ends.
    for client in _clients:
        client._socket.close()


os.register_at_fork(after_in_child=_close_in_child)


def _own_segment() -> tuple[list[Any], list[int]]:
    segment_id, fd, size = _native.arena_segment()
    return [segment_id, size], [fd]


def _offsets(pairs: bytes) -> bytes:
    return b"".join(pairs[i : i + 8] for i in range(0, len(pairs), 16))


def _make_error(name: str, arguments: list[Any]) -> Exception:
    cls = getattr(errors, name)
    if cls is errors.StoreFullError:
        needed, used, budget = arguments
        return errors.StoreFullError(needed=needed, used=used, budget=budget)
    error: Exception = cls(*arguments)
    return error


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be down already
        connection.shutdown(socket.SHUT_RDWR)
