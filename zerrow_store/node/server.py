"""The node store's server: descriptors and books; data never passes through it.

Run as `python -m zerrow_store.node.server`. One thread, one selector; imports neither pyarrow nor
numpy. A client's holds end with its connection; a segment with its process, as a connection may
drop while the process lives, and a forked child may keep it open. Every change of the books is sent
to the supervisor before the client is answered. Here are connections and requests; `lives` keeps
the books, `admission` lets objects in, `cache` answers for decoded columns.
"""

import argparse
import contextlib
import functools
import gc
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zerrow_store.errors import (
    DecodeError,
    ObjectLostError,
    ObjectNotFoundError,
    ProtocolError,
    StoreFullError,
    ZerrowError,
)
from zerrow_store.node import logs, protocol
from zerrow_store.node.accounting import account, account_by_segment
from zerrow_store.node.admission import Admission, Put
from zerrow_store.node.cache import REQUESTS, Cache
from zerrow_store.node.connection import DEFERRED, Connection
from zerrow_store.node.eviction import HIGH_WATERMARK, Eviction
from zerrow_store.node.lives import GRACE_SECONDS, Lives
from zerrow_store.node.outbox import MOST_UNSENT
from zerrow_store.node.policy import load_policy
from zerrow_store.node.producers import Producers
from zerrow_store.node.segments import (
    allow_many_descriptors,
    check_segment,
    open_pidfd,
    start_time,
)

logger = logging.getLogger("zerrow_store.server")

ALREADY_RUNNING = 3
"""Exit code when a store of this name is running already."""

_SUPERVISOR_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0


class Server:
    """See the module. `budget` is in bytes; `watched` is the pid whose end is the store's end.

    eviction: a policy's name. log: where this process logs.
    """

    def __init__(
        self,
        name: str,
        *,
        budget: int,
        eviction: str,
        log: Path,
        watched: int | None,
        respawn: bool,
    ) -> None:
        self._name = name
        self._budget = budget
        self._eviction = eviction
        self._log = log
        self._watched = watched
        self._respawn = respawn
        self._selector = selectors.DefaultSelector()
        self._lives = Lives(
            budget,
            load_policy(eviction),
            self._selector,
            replicate=self._replicate,
            tell=self._tell,
            clients=self._clients,
            freeing=lambda: self._producers.share_changed(),
        )
        self._producers = Producers(self._lives, budget, tell=self._tell)
        self._admission = Admission(
            self._lives, budget, supervisor_id=lambda: self._supervisor_id, retry=self._retry_put
        )
        self._cache = Cache(
            self._lives.books,
            self._lives.holders,
            hold=self._lives.take_hold,
            change=self._lives.change,
            delete=self._lives.delete,
            admit=self._admission.admit,
            adopt=self._admission.adopt,
            settle=self._admission.settle,
            answer=self._answer_later,
            decoded=self._lives.evictor.decoded,
            make_room=self._lives.evictor.make_room,
        )
        self._ticked = 0.0
        self._crowded = False
        self._connections: dict[int, Connection] = {}
        self._supervisor: Connection | None = None
        self._supervisor_id = b""
        self._alone_since = time.monotonic()
        self._running = True
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(protocol.address(name))
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._stop_reading, self._stop_writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def restore(self, supervisor: socket.socket) -> None:
        """Take over the books that the supervisor kept, over a socket that it made for that."""
        reader = protocol.FrameReader()
        while True:
            while (frame := reader.next()) is None:
                if not reader.feed(supervisor):
                    raise ProtocolError("the supervisor went away while handing over")
            kind, _, body = frame
            if kind == "restored":
                break
            if kind == "segment":
                self._lives.descriptors[body[0]] = reader.take_descriptor()
            self._lives.books.apply(kind, body)
        connection = self._add(supervisor)
        connection.greeted, connection.reader = True, reader
        self._supervisor, self._supervisor_id = connection, body
        self._lives.restored()
        # The supervisor takes an answer for a sign that clients can connect.
        self._listener.listen(512)
        while frame := reader.next():
            self._answer(connection, *frame)

    def run(self) -> None:
        """Serve until stopped."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._stop_reading, selectors.EVENT_READ, self._stop)
        self._selector.register(self._lives.spiller.done, selectors.EVENT_READ, self._spilled)
        if self._watched is not None:
            pidfd = open_pidfd(self._watched)
            if pidfd is None:
                return
            self._selector.register(pidfd, selectors.EVENT_READ, self._stop)
        while self._running:
            for key, events in self._selector.select(timeout=1.0):
                key.data(key.fileobj, events)
            self._tick()
        if self._supervisor is not None:
            # It has to read that the end is meant, after all that it has not read yet.
            self._supervisor.socket.settimeout(_PATIENCE_SECONDS)
            with contextlib.suppress(OSError):
                self._supervisor.outbox.flush()

    def stop(self, *_: Any) -> None:
        """End `run` soon; from a signal handler, which must not send amid what is being sent."""
        os.write(self._stop_writing, b"!")

    # --- connections ---

    def _accept(self, *_: Any) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._refuse(error)
            return
        connection = self._add(sock)
        if connection.uid != os.getuid():
            logger.warning("refused a process of user %d", connection.uid)
            self._drop(connection)

    def _refuse(self, error: OSError) -> None:
        """Without descriptors left, a spare one serves to hang up: nobody waits for an answer."""
        logger.warning("cannot take a connection: %s", error)
        os.close(self._spare)
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _add(self, sock: socket.socket) -> Connection:
        connection = Connection(sock, self._selector, self._serve)
        self._connections[sock.fileno()] = connection
        return connection

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                connection.flush()
            if events & selectors.EVENT_READ:
                with contextlib.suppress(BlockingIOError):
                    if not connection.reader.feed(connection.socket):
                        return self._drop(connection)
                while connection.socket.fileno() >= 0 and (frame := connection.reader.next()):
                    self._answer(connection, *frame)
        except ProtocolError as error:
            logger.warning("dropped process %d: %s", connection.pid, error)
            self._drop(connection)
        except OSError as error:
            logger.info("lost process %d: %s", connection.pid, error)
            self._drop(connection)
        return None

    def _drop(self, connection: Connection) -> None:
        if connection.socket.fileno() < 0:
            return
        del self._connections[connection.socket.fileno()]
        connection.close()
        if connection is self._supervisor:
            self._supervisor, self._supervisor_id = None, b""
            self._alone_since = time.monotonic()
            if self._respawn and self._running:
                self._respawn_supervisor()
        if connection.segment is not None:
            self._lives.owners[connection.segment].discard(connection)
            if not self._lives.owners[connection.segment]:
                del self._lives.owners[connection.segment]
        # A process that lives on may read what it held until it has connected again.
        readable_until = time.monotonic() + GRACE_SECONDS
        for object_id, count in connection.holds.items():
            self._lives.release(object_id, count, readable_until)
        self._lives.settling.ended(connection)
        self._cache.dropped(connection)
        self._admission.dropped(connection)

    def _answer_later(self, connection: Connection, request_id: int, reply: Any) -> None:
        """Answer a request that was deferred; an error, if `reply` is one."""
        failed = isinstance(reply, ZerrowError)
        kind, body = ("error", _describe(reply)) if failed else ("reply", reply)
        try:
            connection.send(kind, request_id, body)
        except (OSError, ProtocolError) as error:
            logger.info("lost process %d: %s", connection.pid, error)
            self._drop(connection)

    def _tell(self, connection: Connection, kind: str, body: Any, fds: Sequence[int] = ()) -> None:
        """Send an event; who cannot be told is dropped."""
        try:
            connection.send(kind, 0, body, fds)
        except (OSError, ProtocolError) as error:
            logger.info("lost process %d: %s", connection.pid, error)
            self._drop(connection)

    def _clients(self) -> list[Connection]:
        return [c for c in self._connections.values() if c.greeted and c is not self._supervisor]

    def _replicate(self, kind: str, body: list[Any], fds: Sequence[int]) -> None:
        if self._supervisor is not None:
            self._tell(self._supervisor, kind, body, fds)

    def _retry_put(self, put: Put) -> None:
        enter = functools.partial(self._admission.enter, put)
        try:
            self._reply(put.connection, "put", put.request_id, enter)
        except (OSError, ProtocolError) as error:
            logger.warning("dropped process %d: %s", put.connection.pid, error)
            self._drop(put.connection)

    # --- requests ---

    def _answer(self, connection: Connection, kind: str, request_id: int, body: Any) -> None:
        handler: Callable[..., Any] | None = getattr(self, f"_on_{kind}", None)
        if kind == "put":
            handler = functools.partial(self._admission.put, request_id)
        if kind in REQUESTS:
            handler = functools.partial(getattr(self._cache, REQUESTS[kind]), request_id)
        if handler is None or not (connection.greeted or kind == "hello"):
            raise ProtocolError(f"unexpected frame {kind!r}")
        if kind in ("put", "cache_publish"):
            self._producers.published(connection.segment)
        self._reply(connection, kind, request_id, lambda: handler(connection, *body))

    def _reply(
        self, connection: Connection, kind: str, request_id: int, handle: Callable[[], Any]
    ) -> None:
        try:
            reply = handle()
        except ZerrowError as error:
            if isinstance(error, ProtocolError):
                raise
            reply = None
            connection.send("error", request_id, _describe(error))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise ProtocolError(f"malformed {kind!r}: {error!r}") from error
        else:
            fds = reply.pop() if kind == "segments" else ()
            try:
                if request_id and reply is not DEFERRED:
                    connection.send("reply", request_id, reply, fds)
            finally:
                for fd in fds:
                    os.close(fd)

    def _on_hello(
        self, connection: Connection, version: int, role: str, identity: bytes
    ) -> list[Any]:
        if version != protocol.PROTOCOL_VERSION:
            raise ProtocolError(f"it speaks version {version}, not {protocol.PROTOCOL_VERSION}")
        connection.greeted = True
        if role == "supervisor":
            self._hand_over(connection)
            self._supervisor_id = identity
        return [protocol.PROTOCOL_VERSION, os.getpid()]

    def _hand_over(self, connection: Connection) -> None:
        """Make this connection the supervisor; the one before it, if any, is told to let go."""
        previous, self._supervisor = self._supervisor, connection
        if previous is not None and previous is not connection:
            self._tell(previous, "stopping", [])
            self._drop(previous)
        connection.outbox.limit = sys.maxsize  # the books may be larger than any limit
        for kind, body in self._lives.books.snapshot():
            fds = [self._lives.descriptors[body[0]]] if kind == "segment" else []
            connection.send(kind, 0, body, fds)
        connection.outbox.limit = connection.outbox.unsent + MOST_UNSENT

    def _on_attach(
        self, connection: Connection, segment_id: bytes, size: int, shared: bool = False
    ) -> list[bytes]:
        fd = connection.reader.take_descriptor()
        if connection.segment not in (None, segment_id):
            os.close(fd)
            raise ProtocolError("a process has one segment")
        known = self._lives.books.segments.get(segment_id)
        if known is not None:
            os.close(fd)
            if known.pid != connection.pid:
                raise ProtocolError("a segment belongs to the process that made it")
        else:
            try:
                check_segment(segment_id, fd, size)
            except ProtocolError:
                os.close(fd)
                raise
            self._lives.descriptors[segment_id] = fd
            self._lives.change(
                "segment", [segment_id, size, connection.pid, start_time(connection.pid)]
            )
            try:
                self._lives.watch_process(segment_id)
            except OSError:  # out of descriptors: unwatched, it would stay for ever
                self._lives.change("segment_gone", [segment_id])
                os.close(self._lives.descriptors.pop(segment_id))
                raise
            if segment_id not in self._lives.books.segments:
                raise ProtocolError("its process is gone already")
        if shared and not self._lives.books.segments[segment_id].shared:
            self._lives.change("share", [segment_id])
        connection.segment = segment_id
        self._lives.owners[segment_id].add(connection)
        self._producers.came(segment_id)
        return [self._lives.books.segments[segment_id].references.offsets()]

    def _on_get(self, connection: Connection, object_id: bytes) -> list[Any]:
        entry = self._lives.take_hold(connection, object_id)
        return [entry.message, entry.allocations, entry.places()]

    def _on_hold(self, connection: Connection, object_id: bytes) -> list[Any]:
        return self._lives.take_hold(connection, object_id).places()

    def _on_release(self, connection: Connection, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            if connection.holds[object_id] <= 0:
                raise ProtocolError("it released what it does not hold")
            connection.holds[object_id] -= 1
            if connection.holds[object_id] == 0:
                del connection.holds[object_id]
            self._lives.release(object_id, 1)

    def _on_segments(self, connection: Connection, segment_ids: list[bytes]) -> list[Any]:
        missing = [s for s in segment_ids if s not in self._lives.descriptors]
        if missing:
            raise ObjectLostError(f"segment {missing[0].hex()} is not in the store any more")
        if len(segment_ids) > protocol.MAX_DESCRIPTORS:
            raise ProtocolError("it asks for too many segments at once")
        # Reopened read-only: what is given away can neither be written nor truncated.
        fds: list[int] = []
        try:
            for segment_id in segment_ids:
                path = f"/proc/self/fd/{self._lives.descriptors[segment_id]}"
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        segments = [self._lives.books.segments[segment_id] for segment_id in segment_ids]
        return [[s.size for s in segments], [s.checksums for s in segments], fds]

    def _on_delete(self, connection: Connection, object_ids: list[bytes], missing_ok: bool) -> None:
        if not missing_ok:
            for object_id in object_ids:
                entry = self._lives.books.objects.get(object_id)
                if entry is None or entry.deleted:
                    raise ObjectNotFoundError(object_id)
        for object_id in object_ids:
            self._lives.delete(object_id)

    def _on_settling(self, connection: Connection, object_id: bytes) -> None:
        if object_id in self._lives.books.objects:
            self._lives.settling.began(connection, object_id)

    def _on_settled(self, connection: Connection, object_id: bytes) -> None:
        self._lives.settling.over(object_id)

    def _on_end_leases(self, connection: Connection, object_ids: list[bytes]) -> list[bytes]:
        return self._lives.end_leases(object_ids)

    def _on_list(self, connection: Connection) -> list[Any]:
        return [
            [
                object_id,
                entry.nbytes,
                entry.created,
                self._lives.holders[object_id],
                entry.transient,
            ]
            for object_id, entry in self._lives.books.objects.items()
            if not entry.deleted
        ]

    def _on_stats(self, connection: Connection) -> dict[str, Any]:
        return {
            "objects": sum(not entry.deleted for entry in self._lives.books.objects.values()),
            "bytes_stored": self._lives.books.bytes_stored,
            "bytes_spilled": self._lives.books.bytes_spilled,
            **self._lives.books.counters,
            "spill_bandwidth": int(self._lives.spiller.write_bandwidth),
            "spill_processor_bandwidth": int(self._lives.spiller.processor_bandwidth),
            "read_back_bandwidth": int(self._lives.spiller.read_bandwidth),
            "budget": self._budget,
            "eviction": self._eviction,
            "segments": len(self._lives.books.segments),
            "clients": sum(c is not self._supervisor for c in self._connections.values()),
            "pid": os.getpid(),
            "supervised": self._supervisor is not None,
            "log": str(self._log),
        }

    def _on_memory(self, connection: Connection) -> dict[str, Any]:
        return account(self._lives.books, self._lives.holders, self._lives.resident(), self._budget)

    def _on_memory_by_segment(self, connection: Connection) -> list[Any]:
        return account_by_segment(self._lives.books, self._lives.holders, self._lives.resident_of)

    def _on_evictions(self, connection: Connection) -> list[Any]:
        return [list(vars(record).values()) for record in self._lives.evictor.records.rows()]

    def _on_read_back(
        self, connection: Connection, files: list[tuple[bytes, int]], seconds: float
    ) -> None:
        total = sum(nbytes for _, nbytes in files)
        for file_id, nbytes in files:
            if file_id in self._lives.books.segments:
                self._lives.evictor.read_back(file_id, nbytes, float(seconds) * nbytes / total)

    def _on_spill_ahead(self, connection: Connection, object_ids: list[bytes]) -> None:
        self._lives.evictor.spill_ahead(object_ids)

    def _on_read_ahead(self, connection: Connection, object_ids: list[bytes]) -> None:
        self._lives.page_cache.read_ahead(object_ids)

    def _on_evicted(
        self, connection: Connection, name: str, nbytes: int, expected: float, seconds: float
    ) -> None:
        record = Eviction(
            time.time(), "rollback", str(name), int(nbytes), float(expected), float(seconds), True
        )
        self._lives.evictor.records.add(os.urandom(8), record)

    def _on_shutdown(self, connection: Connection) -> None:
        self._stop()

    # --- the course of time ---

    def _tick(self) -> None:
        now = time.monotonic()
        self._lives.tick()
        self._producers.share_changed()
        if now - self._ticked >= 1.0:
            self._ticked = now
            resident = self._lives.resident()
            self._producers.share()
            # Time for producers to give up freed memory first; what is left then is used.
            self._lives.evictor.tick(resident if self._crowded else 0)
            self._lives.note_read_ahead()
            self._lives.trim_page_cache(resident)
            self._crowded = resident > HIGH_WATERMARK * self._budget
            self._producers.hold_back(resident)
            self._admission.tick()
        alone = self._supervisor is None and now - self._alone_since > _SUPERVISOR_SECONDS
        if alone and not self._respawn:
            logger.warning("no supervisor for %d s: stopping", _SUPERVISOR_SECONDS)
            self._stop()

    def _spilled(self, *_: Any) -> None:
        self._lives.evictor.conclude()
        self._producers.room_was_made()
        self._admission.let_in()

    def _respawn_supervisor(self) -> None:
        command = [sys.executable, "-m", "zerrow_store.node.supervisor", "--name", self._name]
        command += ["--budget", str(self._budget), "--eviction", self._eviction]
        command += ["--log", str(self._log)]
        subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)

    def _stop(self, *_: Any) -> None:
        """End the store, and tell the supervisor that it is meant."""
        self._running = False
        if self._supervisor is not None:
            self._tell(self._supervisor, "stopping", [])


def _describe(error: ZerrowError) -> list[Any]:
    """An error as it travels: its class and what its constructor wants."""
    if isinstance(error, StoreFullError):
        return ["StoreFullError", [error.needed, error.used, error.budget]]
    if isinstance(error, ObjectNotFoundError):
        return ["ObjectNotFoundError", [error.object_id]]
    if isinstance(error, DecodeError):
        return ["DecodeError", [error.kind, str(error)]]
    return [type(error).__name__, [str(error)]]


def collect_young_garbage() -> None:
    """Let Python's collector look at new objects only. The books have no cycles, and to go through
    those of 100,000 objects takes a fifth of a second, in which nobody is answered.
    """
    gc.set_threshold(10_000, 10, 1 << 30)


def main() -> int:
    parser = argparse.ArgumentParser(description="The node store's server.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--eviction", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--supervisor-fd", type=int, required=True)
    parser.add_argument("--watch-pid", type=int)
    parser.add_argument("--respawn-supervisor", action="store_true")
    arguments = parser.parse_args()
    # A process of its own, not a child of the supervisor: it outlives it.
    if os.fork():
        os._exit(0)
    logs.start(arguments.log)
    collect_young_garbage()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    allow_many_descriptors()
    try:
        server = Server(
            arguments.name,
            budget=arguments.budget,
            eviction=arguments.eviction,
            log=arguments.log,
            watched=arguments.watch_pid,
            respawn=arguments.respawn_supervisor,
        )
    except OSError as error:
        logger.warning("a store named %s is running already: %s", arguments.name, error)
        return ALREADY_RUNNING
    signal.signal(signal.SIGTERM, server.stop)
    server.restore(socket.socket(fileno=arguments.supervisor_fd))
    logger.info("the store %s is started, with %d bytes", arguments.name, arguments.budget)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
