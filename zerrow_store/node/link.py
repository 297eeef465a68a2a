"""A process's connection to a node store: requests, replies, and what a restart of it needs.

One background thread reads replies and events, reconnects when the store was restarted, and sends
again what was under way; another one releases what was held. What a process publishes stays pinned
in its arena for as long as the store's books refer to it.

An allocation is registered by the link's first publication that names it, one pin kept, and freed
by one event; both are handled by the reading thread, in the order in which the store sent them, so
that a pin is never taken for another's. A request that was interrupted is concluded by that thread
all the same, which then undoes it.

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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from zerrow_store import errors
from zerrow_store.errors import ObjectExistsError, ProtocolError, StoreUnavailableError
from zerrow_store.native import _native
from zerrow_store.node import adoption, forking, protocol, read_back
from zerrow_store.node._ledger import OffsetSet
from zerrow_store.node.requests import Hold, Request, make_error, offsets_of

logger = logging.getLogger("zerrow_store")

_RECONNECT_SECONDS = 15.0


class Link:
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start()
        _clients.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._ids = itertools.count(1)
        self._attached = False
        self._registered = OffsetSet()
        self._held: Counter[bytes] = Counter()
        self._settling: dict[bytes, Callable[[], None]] = {}
        self._releases: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closed = False
        self._gone: set[bytes] = set()
        _, self._reader = self._greet()
        self._connected = True
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._read, name="zerrow-client", daemon=True)
        self._thread.start()
        threading.Thread(target=self._release, name="zerrow-release", daemon=True).start()

    @property
    def closed(self) -> bool:
        """Whether this client was closed, or its store is gone for good."""
        return self._closed

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
        for object_id in list(self._settling):
            protocol.send(connection, protocol.pack("settling", 0, [object_id]))

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
                raise make_error(*frame[2])
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
                    told = Link(name)
                    told._announce()
                    told.close()

    def _announce(self) -> None:
        body, fds = _own_segment()
        self._request("attach", body, fds=fds)

    def _request(self, kind: str, body: Any, *, fds: Iterable[int] = ()) -> Any:
        """Send a request and wait for its conclusion."""
        return self._wait(self._send(kind, body, fds=fds))

    def _send(self, kind: str, body: Any, *, own: bytes = b"", fds: Iterable[int] = ()) -> Request:
        """Send a request. `own` is unpinned if it fails."""
        request = Request(kind, body, own, list(fds), Future())
        try:
            self._after_fork()
            self._enter(request)
        except BaseException:
            _native.unpin(offsets_of(own))
            raise
        return request

    def _wait(self, request: Request) -> Any:
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

    def _begin_publication(
        self, kind: str, body: list[Any], encoded: Sequence[_native.Encoded], *, owned: bool = False
    ) -> Request:
        """Send a publication, and with it what segments of no process it refers to."""
        own = b"".join(each.own for each in encoded)
        fds: list[int] = []
        try:
            try:
                self._after_fork()
                adopted = adoption.take([s for each in encoded for s, _ in each.foreign])
                fds = [fd for _, fd, _ in adopted]
                if own or owned:
                    self._attach()
            except BaseException:
                _native.unpin(offsets_of(own))
                raise
            body = [*body, [[segment_id, size] for segment_id, _, size in adopted]]
            request = self._send(kind, body, own=own, fds=fds)
        except BaseException:
            adoption.close(fds)
            raise
        request.future.add_done_callback(lambda _: adoption.close(fds))
        return request

    def _request_publication(
        self, kind: str, body: list[Any], encoded: Sequence[_native.Encoded]
    ) -> Any:
        return self._wait(self._begin_publication(kind, body, encoded))

    def _enter(self, request: Request) -> None:
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"this client of the store {self._name!r} is closed")
            request_id = next(self._ids)
            frame = protocol.pack(request.kind, request_id, request.body)
            self._requests[request_id] = request
            # If it fails, the reading thread sees it too, and sends again once it has reconnected.
            with contextlib.suppress(OSError):
                protocol.send(self._socket, frame, request.fds)

    def _undo(self, request: Request) -> None:
        """Take back what an interrupted request has done."""
        if request.kind == "put":
            self._send_quietly("delete", [[request.body[0]], True])
        elif request.kind in ("get", "hold"):
            self._releases.put(request.body[0])
        elif request.kind == "cache_open":
            for hit in request.future.result()[0]:
                self._releases.put(hit[1])
            self._send_quietly("cache_release", [request.body[0]])
        elif request.kind == "cache_publish":
            for column, admitted in zip(request.body[3], request.future.result(), strict=True):
                if admitted:
                    self._releases.put(column[3])

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
                _native.bound_unpublished(None)
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
            read_back.forget(body)
            self._unmap_gone(body)
        elif kind == "unpublished":
            _native.bound_unpublished(body)
        elif kind == "hold_back":
            _native.hold_back(body)
        elif kind == "read":
            if (read := self._settling.pop(body, None)) is not None:
                read()
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

    def _conclude(self, request: Request, kind: str, body: Any) -> Any:
        if kind == "error":
            error = make_error(*body)
            # Sent twice around a crash of the store, and the first time has counted.
            if not (isinstance(error, ObjectExistsError) and request.sent_before):
                _native.unpin(offsets_of(request.own))
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
        elif request.kind == "cache_open":
            with self._lock:
                self._held.update(hit[1] for hit in body[0])
        elif request.kind == "cache_publish":
            self._conclude_columns(request.body[3], body)
        elif request.kind == "segments":
            self._map(request.body[0], *body)
        return body

    def _conclude_columns(self, columns: Sequence[Any], admitted: Sequence[bool]) -> None:
        # One at a time: columns share allocations, and each has pinned them.
        for (_, _, _, object_id, own, *_), ok in zip(columns, admitted, strict=True):
            if ok:
                _native.unpin(self._registered.add(own))
                with self._lock:
                    self._held[object_id] += 1
            else:
                _native.unpin(offsets_of(own))

    def _map(
        self, segment_ids: Sequence[bytes], sizes: Sequence[int], checksums: Sequence[list[Any]]
    ) -> None:
        # All descriptors are taken before anything can fail: the next reply has its own.
        fds = [self._reader.take_descriptor() for _ in segment_ids]
        try:
            for segment_id, fd, size, spilled in zip(
                segment_ids, fds, sizes, checksums, strict=True
            ):
                # Registered first: as soon as it is mapped, another thread may read it.
                if spilled:
                    read_back.register(segment_id, fd, size, spilled)
                _native.map_segment(segment_id, fd, size, sealed=not spilled)
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
_clients: "weakref.WeakSet[Link]" = weakref.WeakSet()

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


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be down already
        connection.shutdown(socket.SHUT_RDWR)
