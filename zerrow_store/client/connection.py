"""A process's connection to a node store, which outlives restarts of the store.

A background thread reads replies and notices. When the store hangs up, the thread connects again
and sends the requests under way again. While no store answers, requests wait for some seconds and
then fail; after that, each new request triggers one attempt to connect. A request fails if the
store hangs up twice in a row while it is under way: it may be what brings the store down. Another
thread tells the store of holds that have ended.

A store is known by its *epoch*. A store with another epoch knows nothing of earlier objects. The
memory of those stays pinned in their producers, because readers may still have views of it.

Locking: `_lock` guards the sending side of the socket, the requests under way, and the holds. So a
restarted store is told exactly what is held at that moment.
"""

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any, Literal

from zerrow_store import errors, threads
from zerrow_store.client import fork_guard
from zerrow_store.client.handshake import handshake
from zerrow_store.client.holds import Holds
from zerrow_store.client.listener import Listener
from zerrow_store.client.requests import Request, UnderWay
from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.protocol import framing, messages, notices, sockets
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import Greeting
from zerrow_store.protocol.wire_errors import decode_error

logger = logging.getLogger("zerrow_store")

_PATIENCE_SECONDS = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_GOODBYE_SECONDS = 1.0


class Connection:
    """A connection to the store `name`, once `connect` was called.

    holds: the holds that the store knows of.

    It has many methods because callers, the reading thread and the releasing one share its state.
    """

    def __init__(
        self, name: str, listener: Listener, role: Literal["client", "agent"] = "client"
    ) -> None:
        self.name = name
        self._listener = listener
        self._role: Literal["client", "agent"] = role
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self.pid = os.getpid()
        self._lock = Lock()
        self._starting = Lock()
        self._epoch = b""
        self._under_way = UnderWay()
        self.holds = Holds(self._lock)
        self._socket: socket.socket | None = None
        self._reader = framing.FrameReader()
        self._thread: threading.Thread | None = None
        self._wanted: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._silent = 0
        self._anew = False
        self._identity = os.urandom(16)
        self._left = False

    def begin_in_child(self) -> None:
        """Begin without connection and holds, in a forked child. The parent's connection must end
        when the parent does, so the child may not keep it.
        """
        if self._socket is not None:
            self._socket.close()
        self._begin()
        self._listener.begin()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def is_up(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._socket is not None

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            first, self._closed = not self._closed, True
            self.holds.end()
            self._ended.put(None)
            self._wanted.put(None)
            if first and self._socket is not None:
                # The reading thread gets the answer, and closes the socket.
                self._register(Request(m.Goodbye()))
        if self._thread is None or threading.current_thread() is self._thread:
            return
        self._thread.join(timeout=_GOODBYE_SECONDS)
        with self._lock:
            if self._socket is not None:  # of a store that hangs
                _shut(self._socket)

    # --- connecting ---

    def connect(self) -> None:
        """Connect for the first time in this process. Raises StoreUnavailableError if no store of
        that name is running.
        """
        fork_guard.connections.add(self)
        with self._starting:
            if self._thread is not None:
                return
            self._greet()
            self._thread = threads.start(self._read, name="zerrow-client")
            self._start_releasing()

    def _greet(self) -> None:
        """Connect, say hello, and tell a restarted store what it has to know."""
        with handshake(self.name, self._listener.note) as (connection, reader, call):
            hello = m.Hello(framing.PROTOCOL_VERSION, self._role, self._identity)
            greeting: Greeting = call(hello)
            self._enter_epoch(greeting.epoch)
            self._listener.introduce(call)
            held = self.holds.hold_again(call)
            with self._lock:
                if self._closed:
                    raise StoreUnavailableError("this client is closed")
                if released := self.holds.held_again(held):
                    framing.send(connection, framing.pack("release", 0, m.Release(released)))
                framing.send(connection, framing.pack("returned", 0, m.Returned()))
                for frame, fds in self._under_way.again():
                    framing.send(connection, frame, fds)
                connection.settimeout(None)
                self._socket, self._reader = connection, reader

    def _enter_epoch(self, epoch: bytes) -> None:
        if self._epoch not in (b"", epoch):
            with self._lock:
                if len(self.holds):
                    logger.warning(
                        "the store %s has begun anew: it has lost %d objects that are held here, "
                        "which stay readable",
                        self.name,
                        len(self.holds),
                    )
                self._under_way.forget_deletions()
                self.holds.end()
                self.holds = Holds(self._lock)
            self._listener.lost()
            self._start_releasing()
        self._epoch = epoch

    # --- requests ---

    def request(self, message: m.Request) -> Any:
        """Send a request; return its reply, or raise its error."""
        return self.wait(self.send(Request(message)))

    def send(self, request: Request) -> Request:
        """Send a request, now or as soon as the store is there. Once it is registered, the reading
        thread concludes it, whatever is raised here.

        Raises TypeError or ValueError for a malformed request, StoreUnavailableError.
        """
        try:
            messages.check(request.message)
            if self._thread is None and not self._closed:
                self.connect()
            with self._lock:
                if self._closed:
                    raise StoreUnavailableError(f"this client of the store {self.name!r} is closed")
                self._register(request)
        except BaseException:
            self.abandon(request)
            raise
        return request

    def _register(self, request: Request) -> None:
        try:
            self._send_frame(self._under_way.add(request), request.fds)
        except BaseException:
            if self._under_way.is_sent(request):
                self._begin_anew()
            raise

    def abandon(self, request: Request) -> None:
        """Give up a request: its sender was interrupted, or it was never sent."""
        with self._lock:
            request.abandoned = True
            is_sent = self._under_way.is_sent(request)
            is_done = request.concluded and request.error is None
        if not is_sent:
            request.clear()
        elif is_done:  # otherwise the reading thread undoes it
            request.undo()

    def notify(self, message: m.Request) -> None:
        """Send a request that has no reply, if there is a connection.

        Raises TypeError or ValueError for a malformed request.
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
        """Send on the connection. Without one, have the reading thread try to connect. If sending
        fails, the reading thread notices, and sends again once it has connected.
        """
        if self._socket is None:
            self._wanted.put(None)
            return
        try:
            framing.send(self._socket, frame, fds or ())
        except OSError:
            _shut(self._socket)

    def _begin_anew(self) -> None:
        """Have the reading thread connect again. A thread was interrupted while it sent, so it is
        unknown how much of the frame the store has received.
        """
        if self._socket is not None:
            self._anew = True
            _shut(self._socket)

    def wait(self, request: Request) -> Any:
        """Wait for a request that was sent; return its result, or raise its error."""
        try:
            return request.wait()
        except BaseException as error:
            if error is request.error:
                # The error refers to the frames of all callers, and these to what they publish. A
                # reference back to it would keep that until Python next collects cycles.
                request.error = None
            else:  # interrupted; if the request fails at the same time, there is nothing to undo
                self.abandon(request)
            raise

    # --- the reading thread ---

    def _read(self) -> None:
        while not self._closed:
            if self._socket is not None:
                self._hang_up(self._follow())
            self._reconnect()
        self._fail(self._take(), "this client is closed")
        if not self._left:
            self._leave()

    def _leave(self) -> None:
        """Say goodbye to a restarted store, if there is one. Otherwise it would keep what was held
        here until this process ends. Does not wait for an answer.
        """
        with contextlib.suppress(OSError, errors.ZerrowError), sockets.connect(self.name) as sock:
            hello = m.Hello(framing.PROTOCOL_VERSION, self._role, self._identity)
            goodbye = m.Goodbye()
            for message in hello, goodbye:
                framing.send(sock, framing.pack(message.kind, 0, message))

    def _follow(self) -> Exception:
        """Handle the store's frames until it hangs up; return the reason."""
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
            logger.exception("the connection to the store %s is made anew", self.name)
            return error

    def _handle(self, frame: framing.Frame) -> None:
        if frame.kind not in ("reply", "error"):
            self._listener.note(notices.decode(frame.kind, frame.raw))
            return
        self._silent = 0
        with self._lock:
            request = self._under_way.pop(frame.request_id)
        result, failure = None, None
        try:
            if frame.kind == "reply":
                reply = messages.decode_reply(request.message, frame.raw)
                result = request.replied(reply, frame)
            else:
                result = request.refused(decode_error(frame.raw))
        except Exception as error:
            failure = error.with_traceback(None)  # its frames refer to the error
        request.clear()
        with self._lock:
            request.conclude(result, failure)
            is_undone = request.abandoned and failure is None
        if isinstance(request.message, m.Goodbye):
            self._left = True
            assert self._socket is not None
            _shut(self._socket)
        if is_undone:
            request.undo()

    def _hang_up(self, reason: Exception) -> None:
        """Close the connection. Fail the requests over which the store hung up twice in a row."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._reader.close()
            self._socket = None
            hung_up_over = not (self._closed or self._anew)
            requests = self._under_way.hung_up() if hung_up_over else []
            self._anew = False
        self._listener.paused()
        for request in requests:
            logger.warning("a %s failed: the store hung up over it twice", request.message.kind)
        self._fail(requests, f"it hung up twice over this request: {reason}")

    def _reconnect(self) -> None:
        """Connect again, however long that takes, or until this client is closed."""
        has_missed, misses_at = False, time.monotonic() + _PATIENCE_SECONDS
        if self._silent:
            # The store has answered nothing since the last connection was made.
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
                if has_missed:
                    self._fail(self._take(), str(error))
                if time.monotonic() > misses_at:
                    # Whoever can starts it again, before anybody is told that it is away.
                    self._listener.missed()
                    has_missed, misses_at = True, time.monotonic() + _PATIENCE_SECONDS
                    continue
            _await(self._wanted, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take(self) -> list[Request]:
        with self._lock:
            return self._under_way.take()

    def _fail(self, requests: Iterable[Request], reason: str) -> None:
        # The store may have entered a put: its allocations stay pinned.
        for request in requests:
            error = StoreUnavailableError(f"the store {self.name!r} does not answer: {reason}")
            request.clear()
            with self._lock:
                request.conclude(error=error)

    # --- the releasing thread ---

    def _start_releasing(self) -> None:
        threads.start(self._release, self.holds, name="zerrow-release")

    def _release(self, holds: Holds) -> None:
        while (ids := holds.collected()) is not None:
            with self._lock:
                if self._closed or self.holds is not holds:
                    return
                released = holds.release(ids)
                if released and self._socket is not None:
                    message = m.Release(released)
                    self._send_frame(framing.pack(message.kind, 0, message))
            self._listener.released()


def _await(signal: "queue.SimpleQueue[None]", seconds: float) -> None:
    """Wait for a signal. A queue, because the signalling thread may be interrupted: one of Python's
    events would then stay locked.
    """
    with contextlib.suppress(queue.Empty):
        signal.get(timeout=seconds)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be down already
        connection.shutdown(socket.SHUT_RDWR)
