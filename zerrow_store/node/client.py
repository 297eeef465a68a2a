"""A process's connection to a node store.

`Client` is safe to use from any thread. One background thread reads replies and events, reconnects
when the store was restarted, and sends again what was under way; another one releases what was
held. What it publishes stays pinned in this process's arena for as long as the store's books refer
to it.

An allocation is registered by the client's first publication that names it, one pin kept, and
freed by one event; both are handled by the reading thread, in the order in which the store sent
them, so that a pin is never taken for another's. A request that was interrupted is concluded by
that thread all the same, which then undoes it.

Locking: `_lock` guards the socket's sending side, the requests under way and what is held, so that
what a restarted store is told is what was held at that moment.
"""

import contextlib
import itertools
import logging
import os
import queue
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from zerrow_store import errors
from zerrow_store.errors import ObjectExistsError, ProtocolError, StoreUnavailableError
from zerrow_store.native import _native
from zerrow_store.node import adoption, forking, protocol
from zerrow_store.node._ledger import OffsetSet
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


class Hold:
    """Keeps an object in the store until it is collected, once the store has confirmed it."""

    __slots__ = ("__weakref__", "_object_id", "_pid", "_releases")

    def __init__(self, object_id: bytes) -> None:
        self._object_id = object_id
        self._releases: queue.SimpleQueue[bytes | None] | None = None
        self._pid = os.getpid()

    def __del__(self) -> None:
        # SimpleQueue.put is safe here: it takes no lock that this thread could hold already.
        if self._releases is not None and self._pid == os.getpid():
            self._releases.put(self._object_id)


@dataclass
class _Request:
    kind: str
    body: Any
    own: bytes
    fds: list[int]
    future: "Future[Any]"
    sent_before: bool = False
    abandoned: bool = False


class Publication:
    """A publication under way; it takes its course also if nobody waits."""

    def __init__(self, client: "Client", request: _Request) -> None:
        self._client = client
        self._request = request

    def wait(self) -> bytes:
        """Return the supervisor's id once the store has taken the object.

        On failure the allocations are unpinned. Raises StoreFullError, ObjectExistsError,
        ObjectLostError.
        """
        (supervisor_id,) = self._client._wait(self._request)
        return bytes(supervisor_id)


class Holding:
    """A hold that was asked for. `hold` is what keeps the object, from `confirm` on."""

    def __init__(self, client: "Client", request: _Request, object_id: bytes) -> None:
        self._client = client
        self._request = request
        self.hold = Hold(object_id)

    def confirm(self) -> None:
        """Wait for the store. Raises ObjectNotFoundError: what was decoded is then not held."""
        self._client._wait(self._request)
        self.hold._releases = self._client._releases


class Client:
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start()
        _clients.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[int, _Request] = {}
        self._ids = itertools.count(1)
        self._attached = False
        self._registered = OffsetSet()
        self._held: Counter[bytes] = Counter()
        self._releases: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._gone: set[bytes] = set()
        _, self._reader = self._greet()
        self._connected = True
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._read, name="zerrow-client", daemon=True)
        self._thread.start()
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
        hold = self._held_by(object_id)
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
        return self.begin_publish(
            object_id, encoded, message, transient=transient, owned=owned
        ).wait()

    def begin_publish(
        self,
        object_id: bytes,
        encoded: _native.Encoded,
        message: bytes | None = None,
        *,
        transient: bool = False,
        owned: bool = False,
    ) -> Publication:
        """Do as `publish` does, but leave it to the caller to wait."""
        self._after_fork()
        counters = [encoded.bytes_shared, encoded.bytes_reshared, encoded.bytes_copied]
        adopted = adoption.take([segment_id for segment_id, _ in encoded.foreign])
        segments = [[segment_id, size] for segment_id, _, size in adopted]
        named = [object_id, encoded.own, encoded.foreign, message, transient, owned, counters]
        body = [*named, segments]
        fds = [fd for _, fd, _ in adopted]
        try:
            if encoded.own or owned:
                self._attach()
        except BaseException:
            _native.unpin(_offsets(encoded.own))
            adoption.close(fds)
            raise
        request = self._send("put", body, own=encoded.own, fds=fds)
        request.future.add_done_callback(lambda _: adoption.close(fds))
        return Publication(self, request)

    def begin_hold(self, object_id: bytes) -> Holding:
        """Ask for a hold of an object: `confirm` it."""
        return Holding(self, self._send("hold", [object_id]), object_id)

    def hold(self, object_id: bytes) -> Hold:
        """Return something that keeps the object in the store until it is collected.

        Raises ObjectNotFoundError.
        """
        holding = self.begin_hold(object_id)
        holding.confirm()
        return holding.hold

    def allocations(self, object_id: bytes) -> Allocations:
        """Return the allocations (segment, offset, size) of an object, which the caller must
        hold.
        """
        _, allocations = self._request("get", [object_id])
        self._held_by(object_id)
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
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=1.0)  # it closes the socket; a store that hangs is left alone

    # --- connection ---

    def _greet(self) -> tuple[socket.socket, protocol.FrameReader]:
        """Connect, say hello, and take up again what a restarted store has to know."""
        connection = protocol.connect(self._name)
        reader = protocol.FrameReader()
        try:
            self._call(connection, reader, "hello", [protocol.PROTOCOL_VERSION, "client", b""])
            if self._attached:
                body, fds = _own_segment()
                (live,) = self._call(connection, reader, "attach", body, fds)
                _native.unpin(self._registered.retain(live))
            with self._lock:
                held = Counter(self._held)
            for object_id in list(held.elements()):
                try:
                    self._call(connection, reader, "hold", [object_id])
                except errors.ObjectNotFoundError as error:
                    logger.warning("a view outlived its object: %s", error)
                    held[object_id] -= 1
            with self._lock:
                if self._closed:
                    raise StoreUnavailableError("this client is closed")
                released = held - self._held  # while this was under way
                self._held &= held
                if released:
                    ids = list(released.elements())
                    protocol.send(connection, protocol.pack("release", 0, [ids]))
                self._resend(connection)
        except (OSError, errors.ZerrowError) as error:
            reader.close()
            connection.close()
            raise StoreUnavailableError(f"the store {self._name!r} hung up: {error}") from error
        return connection, reader

    def _resend(self, connection: socket.socket) -> None:
        """Make `connection` the client's, and send again what was under way."""
        self._socket, previous = connection, getattr(self, "_socket", connection)
        if previous is not connection:
            _shut(previous)
            previous.close()
        for request_id, request in self._requests.items():
            request.sent_before = True
            body = request.body
            if request.kind == "delete":  # it may have been done before the crash
                body = [body[0], True]
            frame = protocol.pack(request.kind, request_id, body)
            protocol.send(connection, frame, request.fds)

    def _call(
        self,
        connection: socket.socket,
        reader: protocol.FrameReader,
        kind: str,
        body: Any,
        fds: Iterable[int] = (),
    ) -> Any:
        """Send one request and wait for its reply, before the reading thread takes over."""
        protocol.send(connection, protocol.pack(kind, 0xFFFFFFFF, body), list(fds))
        while True:
            while (frame := reader.next()) is None:
                if not reader.feed(connection):
                    raise ProtocolError("the store hung up on the greeting: another version?")
            if frame[0] == "reply":
                return frame[2]
            if frame[0] == "error":
                raise _make_error(*frame[2])
            self._handle(*frame)

    def _attach(self) -> None:
        with _attaching:
            if self._attached:
                return
            others = _stores - {self._name}
            _stores.add(self._name)
            self._announce()
            # Another store must not give back, at this process's end, what only this one knows of.
            # One that is reconnecting tells its store by itself, once there is one.
            for client in [c for c in _clients if c._connected and c._name in others]:
                with contextlib.suppress(StoreUnavailableError):
                    client._announce()
                    others.discard(client._name)
            for name in others:
                with contextlib.suppress(StoreUnavailableError):
                    told = Client(name)
                    told._announce()
                    told.close()

    def _announce(self) -> None:
        body, fds = _own_segment()
        self._request("attach", body, fds=fds)

    def _request(self, kind: str, body: Any, *, fds: Iterable[int] = ()) -> Any:
        """Send a request and wait for its conclusion."""
        return self._wait(self._send(kind, body, fds=fds))

    def _send(self, kind: str, body: Any, *, own: bytes = b"", fds: Iterable[int] = ()) -> _Request:
        """Send a request. `own` is unpinned if it fails."""
        request = _Request(kind, body, own, list(fds), Future())
        try:
            self._after_fork()
            self._enter(request)
        except BaseException:
            _native.unpin(_offsets(own))
            raise
        return request

    def _wait(self, request: _Request) -> Any:
        try:
            return request.future.result()
        except BaseException:
            with self._lock:
                # Interrupted, by control-C or Ray's cancellation: the reading thread concludes it.
                request.abandoned = not request.future.done()
            if not request.abandoned and request.future.exception() is None:
                self._undo(request)
            raise
        finally:
            # An error refers to the frames of all callers, and these to what they publish: if they
            # referred to it, that would stay until Python next collects cycles.
            if not request.abandoned:
                del request.future

    def _enter(self, request: _Request) -> None:
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"this client of the store {self._name!r} is closed")
            request_id = next(self._ids)
            frame = protocol.pack(request.kind, request_id, request.body)
            self._requests[request_id] = request
            # If it fails, the reading thread sees it too, and sends again once it has reconnected.
            with contextlib.suppress(OSError):
                protocol.send(self._socket, frame, request.fds)

    def _undo(self, request: _Request) -> None:
        """Take back what an interrupted request has done."""
        if request.kind == "put":
            self._send_quietly("delete", [[request.body[0]], True])
        elif request.kind in ("get", "hold"):
            self._releases.put(request.body[0])

    def _send_quietly(self, kind: str, body: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            protocol.send(self._socket, protocol.pack(kind, 0, body))

    def _read(self) -> None:
        while True:
            try:
                while (frame := self._reader.next()) is None:
                    if not self._reader.feed(self._socket):
                        raise ConnectionResetError("the store hung up")
                self._handle(*frame)
            except (OSError, ProtocolError) as error:
                self._connected = False
                if self._closed or not self._reconnect():
                    return self._fail(error)
                self._connected = True
            except Exception as error:
                logger.exception("the connection to the store %s ends", self._name)
                self._connected = False
                return self._fail(error)

    def _handle(self, kind: str, request_id: int, body: Any) -> None:
        if kind == "freed":
            _native.unpin(self._registered.remove(body))
        elif kind == "segment_gone":
            self._unmap_gone(body)
        elif kind in ("reply", "error"):
            with self._lock:
                request = self._requests.pop(request_id)
            try:
                result = self._conclude(request, kind, body)
            except Exception as error:
                with self._lock:  # without this thread's frames, which refer to the error
                    request.future.set_exception(error.with_traceback(None))
                return
            with self._lock:
                request.future.set_result(result)
            if request.abandoned:
                self._undo(request)
        else:
            raise ProtocolError(f"the store sent {kind!r}")

    def _conclude(self, request: _Request, kind: str, body: Any) -> Any:
        if kind == "error":
            error = _make_error(*body)
            # Sent twice around a crash of the store, and the first time has counted.
            if not (isinstance(error, ObjectExistsError) and request.sent_before):
                _native.unpin(_offsets(request.own))
                raise error
            body = [b""]
        if request.kind == "attach":
            self._attached = True
        elif request.kind == "put":
            # One pin for each allocation in the books is enough.
            _native.unpin(self._registered.add(request.own))
        elif request.kind in ("get", "hold"):
            with self._lock:
                self._held[request.body[0]] += 1
        elif request.kind == "segments":
            self._map(request.body[0], body[0])
        return body

    def _map(self, segment_ids: Sequence[bytes], sizes: Sequence[int]) -> None:
        # All descriptors are taken before anything can fail: the next reply has its own.
        fds = [self._reader.take_descriptor() for _ in segment_ids]
        try:
            for segment_id, fd, size in zip(segment_ids, fds, sizes, strict=True):
                _native.map_segment(segment_id, fd, size)
        finally:
            for fd in fds:
                os.close(fd)

    def _unmap_gone(self, *segment_ids: bytes) -> None:
        """Unmap segments that the store has no more; those with views are tried again later."""
        with self._lock:
            self._gone.update(segment_ids)
            if self._gone:
                mapped = set(_native.mapped_segments())
                self._gone = {s for s in self._gone & mapped if not _native.unmap_segment(s)}

    def _reconnect(self) -> bool:
        deadline = time.monotonic() + _RECONNECT_SECONDS
        wait = 0.02
        while time.monotonic() < deadline and not self._closed:
            try:
                _, reader = self._greet()
            except StoreUnavailableError:
                time.sleep(wait)
                wait = min(2 * wait, 0.5)
                continue
            self._reader.close()
            self._reader = reader
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
            # A put may have counted: what it named stays pinned.
            reason = StoreUnavailableError(f"the store {self._name!r} is gone: {error}")
            request.future.set_exception(reason)

    def _held_by(self, object_id: bytes) -> Hold:
        hold = Hold(object_id)
        hold._releases = self._releases
        return hold

    def _release(self) -> None:
        releases = self._releases
        while (object_id := releases.get()) is not None:
            ids = [object_id]
            while not releases.empty():
                following = releases.get()
                if following is None:
                    return
                ids.append(following)
            with self._lock:
                if self._closed:
                    return
                # Not what a restarted store could not hold again.
                known = Counter(ids) & self._held
                self._held -= known
                # A restarted store learns only of what is still held.
                with contextlib.suppress(OSError):
                    body = [list(known.elements())]
                    protocol.send(self._socket, protocol.pack("release", 0, body))
            self._unmap_gone()

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            with _forking:
                if self._pid != os.getpid():
                    self._start()


_forking = threading.Lock()
_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()

_attaching = threading.Lock()
_stores: set[str] = set()
"""The stores that this process's arena was attached to; guarded by `_attaching`."""


def _before_fork() -> None:
    for client in list(_clients):
        if client._pid == os.getpid() and not client._closed and client._held:
            with client._lock:
                held = Counter(client._held)
            forking.guard(client._name, held)


def _after_in_child() -> None:
    global _attaching, _forking
    _attaching, _forking = threading.Lock(), threading.Lock()
    _stores.clear()  # the child's arena is another
    forking.keep_guards()
    # The parent's connection is the parent's alone: its end must be seen when the parent ends.
    for client in _clients:
        client._socket.close()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=forking.release_guards,
    after_in_child=_after_in_child,
)


def _own_segment() -> tuple[list[Any], list[int]]:
    segment_id, fd, size = _native.arena_segment()
    return [segment_id, size, len(_stores) > 1], [fd]


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
