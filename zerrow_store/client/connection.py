"""A process's connection to a node store that outlives restarts of the store.

One background thread reads replies and events, and connects again when the store has hung up; what
was under way is sent again then. While no store answers, requests wait for some seconds; then they
fail, and each later one has one more attempt to connect made. A request that was under way when the
store hung up twice in a row fails: it may be what the store cannot bear. Another thread releases
what was held.

A store is known by its *epoch*: one that has begun anew knows nothing of what there was. What its
predecessor's objects lie in stays pinned in their producers then, as somebody may read it.

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
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

from zerrow_store import errors, forks, threads
from zerrow_store.client import fork_guard
from zerrow_store.client.holds import Hold, Holds
from zerrow_store.client.requests import Request
from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.protocol import framing, messages, notices, sockets
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import Greeting
from zerrow_store.protocol.wire_errors import decode_error

logger = logging.getLogger("zerrow_store")

Call = Callable[..., Any]
"""Send a request, with descriptors, on a new connection, and return its reply."""

_PATIENCE_SECONDS = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_MOST_HANG_UPS = 2
_GREETING_ID = 0xFFFFFFFF
_GOODBYE_SECONDS = 1.0


class Connection(ABC):
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    _role: ClassVar[Literal["client", "agent"]] = "client"

    def __init__(self, name: str) -> None:
        self._name = name
        self._closed = False
        self._begin()
        self._connect()
        connections.add(self)

    def _begin(self) -> None:
        """Have nothing, and no connection: at first, and in a forked child."""
        self._pid = os.getpid()
        self._lock = Lock()
        self._starting = Lock()
        self._epoch = b""
        self._ids = itertools.count(1)
        self._requests: dict[int, Request] = {}
        self._undeleted: set[bytes] = set()
        self._held: Counter[bytes] = Counter()
        self._holds = Holds()
        self._socket: socket.socket | None = None
        self._reader = framing.FrameReader()
        self._thread: threading.Thread | None = None
        self._wanted: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._silent = 0
        self._anew = False
        self._identity = os.urandom(16)
        self._left = False

    @property
    def name(self) -> str:
        """The store's name."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether this client was closed."""
        return self._closed

    def close(self) -> None:
        """Disconnect. Views stay valid only as long as somebody else holds their objects."""
        with self._lock:
            first, self._closed = not self._closed, True
            self._holds.end()
            self._ended.put(None)
            self._wanted.put(None)
            if first and self._socket is not None:
                # The reading thread hears of it, and closes the socket.
                self._register(Request(m.Goodbye()))
        if self._thread is None or threading.current_thread() is self._thread:
            return
        self._thread.join(timeout=_GOODBYE_SECONDS)
        with self._lock:
            if self._socket is not None:  # of a store that hangs
                _shut(self._socket)

    # --- what a process has at the store, and what it is told of it ---

    @abstractmethod
    def _introduce(self, call: Call) -> None:
        """Tell a store that was just connected to what it has to know first."""

    @abstractmethod
    def _lose(self) -> None:
        """The store has begun anew: what it had is lost to it."""

    @abstractmethod
    def _pause(self) -> None:
        """The store has hung up: until it is back, it says nothing of memory."""

    @abstractmethod
    def _miss(self) -> None:
        """The store has been away for long."""

    @abstractmethod
    def _conclude(self, request: Request, frame: framing.Frame) -> Any:
        """Do what an answer entails; returns what the request's sender gets, or raises."""

    @abstractmethod
    def _undo(self, request: Request) -> None:
        """Take back what a request has done for which nobody waits any more."""

    @abstractmethod
    def _clear(self, request: Request) -> None:
        """Let go of what went along with a request that is over, or was never sent."""

    @abstractmethod
    def _note(self, notice: notices.Notice) -> None:
        """Do what a notice of the store entails."""

    @abstractmethod
    def _unmap_gone(self, *segment_ids: bytes) -> None:
        """Unmap segments that the store has no more; those with views are tried again later."""

    # --- connecting ---

    def _connect(self) -> None:
        """Connect for the first time in this process. Raises StoreUnavailableError."""
        with self._starting:
            if self._thread is not None:
                return
            self._greet()
            self._thread = threads.start(self._read, name="zerrow-client")
            self._start_releasing()

    def _greet(self) -> None:
        """Connect, say hello, and take up again what a restarted store has to know."""
        connection = sockets.connect(self._name)
        reader = framing.FrameReader()

        def call(request: m.Request, fds: Iterable[int] = ()) -> Any:
            return self._ask(connection, reader, request, list(fds))

        try:
            connection.settimeout(_PATIENCE_SECONDS)
            hello = m.Hello(framing.PROTOCOL_VERSION, self._role, self._identity)
            greeting: Greeting = call(hello)
            self._enter_epoch(greeting.epoch)
            self._introduce(call)
            held = self._hold_again(call)
            with self._lock:
                if self._closed:
                    raise StoreUnavailableError("this client is closed")
                released = held - self._held  # while this was under way
                self._held &= held
                if released:
                    ids = list(released.elements())
                    framing.send(connection, framing.pack("release", 0, m.Release(ids)))
                framing.send(connection, framing.pack("returned", 0, m.Returned()))
                self._resend(connection)
                connection.settimeout(None)
                self._socket, self._reader = connection, reader
        except Exception as error:
            if not isinstance(error, OSError | errors.ZerrowError):
                logger.exception("the greeting of the store %s failed", self._name)
            reader.close()
            connection.close()
            raise StoreUnavailableError(
                f"the store {self._name!r} does not answer: {error}"
            ) from error

    def _enter_epoch(self, epoch: bytes) -> None:
        if self._epoch not in (b"", epoch):
            with self._lock:
                if self._held:
                    logger.warning(
                        "the store %s has begun anew: it has lost %d objects that are held here, "
                        "which stay readable",
                        self._name,
                        len(self._held),
                    )
                self._held.clear()
                self._undeleted.clear()
                self._holds.end()
                self._holds = Holds()
            self._lose()
            self._start_releasing()
        self._epoch = epoch

    def _hold_again(self, call: Call) -> Counter[bytes]:
        """Hold what is held at a store that was started again; returns what that could be done
        for.
        """
        with self._lock:
            held = Counter(self._held)
        for object_id in list(held.elements()):
            try:
                call(m.Hold(object_id))
            except errors.ObjectNotFoundError as error:
                logger.warning("a view outlived its object: %s", error)
                held[object_id] -= 1
        return held

    def _resend(self, connection: socket.socket) -> None:
        """Send what is under way, and the deletions that no store has heard of."""
        if self._undeleted:
            delete = Request(m.Delete(list(self._undeleted), True), id=next(self._ids))
            self._requests[delete.id] = delete
            self._undeleted.clear()
        for request_id, request in self._requests.items():
            request.resent = True
            message = request.message
            if isinstance(message, m.Delete):  # it may have been done before the crash
                message = m.Delete(message.object_ids, True)
            frame = framing.pack(message.kind, request_id, message, len(request.fds))
            framing.send(connection, frame, request.fds)

    def _ask(
        self,
        connection: socket.socket,
        reader: framing.FrameReader,
        request: m.Request,
        fds: list[int],
    ) -> Any:
        """Send one request and wait for its reply, before the reading thread takes over."""
        frame = framing.pack(request.kind, _GREETING_ID, request, len(fds))
        framing.send(connection, frame, fds)
        while True:
            answer = reader.read(connection)
            if answer.kind == "reply":
                return messages.decode_reply(request, answer.raw)
            if answer.kind == "error":
                raise decode_error(answer.raw)
            self._note(notices.decode(answer.kind, answer.raw))

    # --- requests ---

    def _request(self, message: m.Request, *, fds: Iterable[int] = ()) -> Any:
        """Send a request and wait for its conclusion."""
        return self._wait(self._send(Request(message, fds=list(fds))))

    def _send(self, request: Request) -> Request:
        """Send a request, now or as soon as the store is there. Once it is sent, or about to be,
        its answer has it concluded, whatever is raised here.

        Raises TypeError or ValueError for one that is malformed, StoreUnavailableError.
        """
        try:
            messages.check(request.message)
            if self._thread is None and not self._closed:
                self._connect()
            with self._lock:
                if self._closed:
                    raise StoreUnavailableError(
                        f"this client of the store {self._name!r} is closed"
                    )
                self._register(request)
        except BaseException:
            self._abandon(request)
            raise
        return request

    def _register(self, request: Request) -> None:
        message = request.message
        request.id = next(self._ids)
        frame = framing.pack(message.kind, request.id, message, len(request.fds))
        if len(frame) > framing.MAX_REQUEST:
            raise ValueError(f"a request has at most {framing.MAX_REQUEST:,} bytes")
        self._requests[request.id] = request
        try:
            self._send_frame(frame, request.fds)
        except BaseException:
            self._begin_anew()
            raise

    def _abandon(self, request: Request) -> None:
        """Nobody waits for a request any more: its sender was interrupted, or it was never sent."""
        with self._lock:
            request.abandoned = True
            is_sent = request.answered or request.id in self._requests
            is_done = request.concluded and request.error is None
        if not is_sent:
            self._clear(request)
        elif is_done:  # else the reading thread does so
            self._undo(request)

    def _send_quietly(self, message: m.Request) -> None:
        """Send a notice, if there is a connection.

        Raises TypeError or ValueError for one that is malformed.
        """
        messages.check(message)
        with self._lock:
            if self._socket is not None:
                try:
                    self._send_frame(framing.pack(message.kind, 0, message))
                except BaseException:
                    self._begin_anew()
                    raise

    def _send_frame(self, frame: bytes, fds: list[int] | None = None) -> None:
        """Send on the connection; without one, have the reading thread try to get one. If sending
        fails, that thread sees it, and sends again once it has connected.
        """
        if self._socket is None:
            self._wanted.put(None)
            return
        try:
            framing.send(self._socket, frame, fds or ())
        except OSError:
            _shut(self._socket)

    def _begin_anew(self) -> None:
        """Have the reading thread connect again: a thread was interrupted as it sent, and how much
        of it the store has got is unknown.
        """
        if self._socket is not None:
            self._anew = True
            _shut(self._socket)

    def _wait(self, request: Request) -> Any:
        try:
            return request.wait()
        except BaseException as error:
            if error is request.error:
                # It refers to the frames of all callers, and these to what they publish: if they
                # referred to it, that would stay until Python next collects cycles.
                request.error = None
            else:  # interrupted; it may have failed at the same time, and then undoes nothing
                self._abandon(request)
            raise

    # --- the reading thread ---

    def _read(self) -> None:
        while not self._closed:
            if self._socket is not None:
                self._hang_up(self._follow())
            self._reconnect()
        self._fail(self._take_requests(), "this client is closed")
        if not self._left:
            self._leave()

    def _leave(self) -> None:
        """Say goodbye to a store that has hung up, if there is one: else it would keep what was
        held here until this process ends. There is no answer, nobody waits for one.
        """
        with contextlib.suppress(OSError, errors.ZerrowError), sockets.connect(self._name) as sock:
            hello = m.Hello(framing.PROTOCOL_VERSION, self._role, self._identity)
            goodbye = m.Goodbye()
            for message in hello, goodbye:
                framing.send(sock, framing.pack(message.kind, 0, message))

    def _follow(self) -> Exception:
        """Handle what the store says until it hangs up; returns why."""
        assert self._socket is not None
        try:
            while True:
                frame = self._reader.read(self._socket)
                try:
                    self._handle(frame)
                finally:
                    frame.close()
        except (OSError, ProtocolError) as error:
            return error
        except Exception as error:
            logger.exception("the connection to the store %s is made anew", self._name)
            return error

    def _handle(self, frame: framing.Frame) -> None:
        if frame.kind not in ("reply", "error"):
            self._note(notices.decode(frame.kind, frame.raw))
            return
        self._silent = 0
        with self._lock:
            request = self._requests.pop(frame.request_id)
            request.answered = True
        result, failure = None, None
        try:
            result = self._conclude(request, frame)
        except Exception as error:
            failure = error.with_traceback(None)  # its frames refer to the error
        self._clear(request)
        with self._lock:
            request.conclude(result, failure)
            is_undone = request.abandoned and failure is None
        if isinstance(request.message, m.Goodbye):
            self._left = True
            assert self._socket is not None
            _shut(self._socket)
        if is_undone:
            self._undo(request)

    def _hang_up(self, reason: Exception) -> None:
        """Close the connection; what was under way twice in a row then has failed."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._reader.close()
            self._socket = None
            for request in self._requests.values():
                request.hang_ups += not (self._closed or self._anew)
            self._anew = False
            failed = [i for i, r in self._requests.items() if r.hang_ups >= _MOST_HANG_UPS]
            requests = [self._requests.pop(request_id) for request_id in failed]
            for request in requests:
                request.answered = True
        self._pause()
        for request in requests:
            logger.warning("a %s failed: the store hung up over it twice", request.message.kind)
        self._fail(requests, f"it hung up twice over this request: {reason}")

    def _reconnect(self) -> None:
        """Connect again, however long that takes, or until this client is closed."""
        impatient = missed = time.monotonic() + _PATIENCE_SECONDS
        if self._silent:
            # It has answered nothing since it was connected to.
            _await(self._ended, min(_FIRST_PAUSE * 2 ** min(self._silent, 10), _LONGEST_PAUSE))
        self._silent += 1
        pause = _FIRST_PAUSE
        while not self._closed:
            while not self._wanted.empty():
                self._wanted.get()
            try:
                self._greet()
                return
            except StoreUnavailableError as error:
                if time.monotonic() > impatient:
                    self._fail(self._take_requests(), str(error))
                if time.monotonic() > missed:
                    missed = time.monotonic() + _PATIENCE_SECONDS
                    self._miss()
            _await(self._wanted, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take_requests(self) -> list[Request]:
        """Take all requests, which are to fail. What they delete is deleted later all the same."""
        with self._lock:
            requests, self._requests = self._requests, {}
            for request in requests.values():
                request.answered = True
                if isinstance(request.message, m.Delete):
                    self._undeleted.update(request.message.object_ids)
        return list(requests.values())

    def _fail(self, requests: Iterable[Request], reason: str) -> None:
        # A put may have counted: what it named stays pinned.
        for request in requests:
            error = StoreUnavailableError(f"the store {self._name!r} does not answer: {reason}")
            self._clear(request)
            with self._lock:
                request.conclude(error=error)

    # --- holds ---

    def _confirmed(self, object_id: bytes, hold: Hold | None = None) -> Hold:
        """Return what keeps an object that the store says is held. In the reading thread."""
        with self._lock:
            self._held[object_id] += 1
        return self._holds.confirm(hold or Hold(), object_id)

    def _start_releasing(self) -> None:
        threads.start(self._release, self._holds, name="zerrow-release")

    def _release(self, holds: Holds) -> None:
        while (ids := holds.collected()) is not None:
            with self._lock:
                if self._closed or self._holds is not holds:
                    return
                # Not what a restarted store could not hold again. It learns only of what is held.
                known = Counter(ids) & self._held
                self._held -= known
                if known and self._socket is not None:
                    message = m.Release(list(known.elements()))
                    self._send_frame(framing.pack(message.kind, 0, message))
            self._unmap_gone()


connections: "weakref.WeakSet[Connection]" = weakref.WeakSet()
"""Those of this process."""


def _before_fork() -> None:
    for link in list(connections):
        held = Counter(link._held)  # in one step: the lock may be another thread's for long
        if link._pid == os.getpid() and not link._closed and held:
            fork_guard.guard(link._name, held)


def _in_child() -> None:
    fork_guard.keep_guards()
    # The parent's connection is the parent's alone: its end must be seen when the parent ends.
    for link in list(connections):
        if link._socket is not None:
            link._socket.close()
        link._begin()


forks.register(before=_before_fork, in_parent=fork_guard.release_guards, in_child=_in_child)


def _await(signal: "queue.SimpleQueue[None]", seconds: float) -> None:
    """Wait for a signal, which may be given by a thread that is interrupted as it does so: Python's
    own events stay locked then.
    """
    with contextlib.suppress(queue.Empty):
        signal.get(timeout=seconds)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be down already
        connection.shutdown(socket.SHUT_RDWR)
