"""The node store's server: descriptors and books; data never passes through it.

Run as `python -m zerrow_store.node.server`. One thread, one selector; imports neither pyarrow nor
numpy. A client's holds end with its connection. A segment ends with its process, seen through a
pidfd, as a connection may drop while the process lives, and a forked child may keep it open. Every
change of the books is sent to the supervisor before the client is answered.
"""

import argparse
import contextlib
import functools
import logging
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from zerrow_store.errors import (
    DecodeError,
    ObjectExistsError,
    ObjectLostError,
    ObjectNotFoundError,
    ProtocolError,
    StoreFullError,
    ZerrowError,
)
from zerrow_store.node import protocol
from zerrow_store.node.accounting import account
from zerrow_store.node.books import COUNTERS, NO_PROCESS, Books, Freed, Object, Packed
from zerrow_store.node.cache import DEFERRED, REQUESTS, Cache
from zerrow_store.node.connection import Connection
from zerrow_store.node.eviction import HIGH_WATERMARK, Evictor, Record
from zerrow_store.node.outbox import MOST_UNSENT
from zerrow_store.node.policy import load_policy
from zerrow_store.node.segments import check_segment, open_pidfd, punch, resident_bytes, start_time
from zerrow_store.node.spill import Spiller, spill_directory

logger = logging.getLogger("zerrow_store.server")

ALREADY_RUNNING = 3
"""Exit code when a store of this name is running already."""

_GRACE_SECONDS = 10.0
_SUPERVISOR_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0
_MOST_COUNTED = 1 << 50
_PUT_FIELDS = 7  # without the segments that are to be adopted


class Server:
    """See the module. `budget` is in bytes; `watched` is the pid whose end is the store's end.

    eviction: a policy's name.
    """

    def __init__(
        self, name: str, budget: int, eviction: str, watched: int | None, respawn: bool
    ) -> None:
        self._name = name
        self._budget = budget
        self._eviction = eviction
        self._watched = watched
        self._respawn = respawn
        self._books = Books()
        self._descriptors: dict[bytes, int] = {}
        self._owners: defaultdict[bytes, set[Connection]] = defaultdict(set)
        self._dead: set[bytes] = set()
        self._holders: Counter[bytes] = Counter()
        self._orphaned: dict[bytes, float] = {}
        self._returning_until = 0.0
        self._cache = Cache(
            self._books,
            self._holders,
            hold=self._take_hold,
            change=self._change,
            delete=self._delete,
            admit=self._admit,
            answer=self._answer_later,
            decoded=lambda *column: self._evictor.decoded(*column),
            make_room=lambda nbytes: self._evictor.make_room(nbytes),
        )
        self._spiller = Spiller(
            spill_directory(),
            self._books,
            self._descriptors,
            self._dead,
            is_idle=self._is_idle,
            change=self._change,
            give_back=self._give_back,
        )
        self._evictor = Evictor(
            self._books,
            self._spiller,
            load_policy(eviction),
            budget,
            delete=self._delete,
            all_returned=self._all_returned,
        )
        self._ticked = 0.0
        self._crowded = False
        self._full: deque[tuple[Connection, int, list[Any]]] = deque()
        self._connections: dict[int, Connection] = {}
        self._supervisor: Connection | None = None
        self._supervisor_id = b""
        self._alone_since = time.monotonic()
        self._selector = selectors.DefaultSelector()
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
                self._descriptors[body[0]] = reader.take_descriptor()
            self._books.apply(kind, body)
        connection = self._add(supervisor)
        connection.greeted, connection.reader = True, reader
        self._supervisor, self._supervisor_id = connection, body
        until = time.monotonic() + _GRACE_SECONDS
        if self._books.objects:
            self._returning_until = until
        for object_id, entry in self._books.objects.items():
            self._evictor.idle(object_id, until)
            if entry.deleted or entry.transient:
                self._orphaned[object_id] = until
        for segment_id in list(self._books.segments):
            self._watch_process(segment_id)
        # The supervisor takes an answer for a sign that clients can connect.
        self._listener.listen(512)
        while frame := reader.next():
            self._answer(connection, *frame)

    def run(self) -> None:
        """Serve until stopped."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._stop_reading, selectors.EVENT_READ, self._stop)
        self._selector.register(self._spiller.done, selectors.EVENT_READ, self._spilled)
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
            self._owners[connection.segment].discard(connection)
            if not self._owners[connection.segment]:
                del self._owners[connection.segment]
        # A process that lives on may read what it held until it has connected again.
        readable_until = time.monotonic() + _GRACE_SECONDS
        for object_id, count in connection.holds.items():
            self._release(object_id, count, readable_until)
        self._cache.dropped(connection)
        self._full = deque(waiting for waiting in self._full if waiting[0] is not connection)

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

    # --- requests ---

    def _answer(self, connection: Connection, kind: str, request_id: int, body: Any) -> None:
        handler: Callable[..., Any] | None = getattr(self, f"_on_{kind}", None)
        if kind == "put":
            handler = functools.partial(self._on_put, request_id)
        if kind in REQUESTS:
            handler = functools.partial(getattr(self._cache, REQUESTS[kind]), request_id)
        if handler is None or not (connection.greeted or kind == "hello"):
            raise ProtocolError(f"unexpected frame {kind!r}")
        try:
            reply = handler(connection, *body)
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
        for kind, body in self._books.snapshot():
            fds = [self._descriptors[body[0]]] if kind == "segment" else []
            connection.send(kind, 0, body, fds)
        connection.outbox.limit = connection.outbox.unsent + MOST_UNSENT

    def _on_attach(
        self, connection: Connection, segment_id: bytes, size: int, shared: bool = False
    ) -> list[bytes]:
        fd = connection.reader.take_descriptor()
        if connection.segment not in (None, segment_id):
            os.close(fd)
            raise ProtocolError("a process has one segment")
        known = self._books.segments.get(segment_id)
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
            self._descriptors[segment_id] = fd
            self._change("segment", [segment_id, size, connection.pid, start_time(connection.pid)])
            try:
                self._watch_process(segment_id)
            except OSError:  # out of descriptors: unwatched, it would stay for ever
                self._change("segment_gone", [segment_id])
                os.close(self._descriptors.pop(segment_id))
                raise
            if segment_id not in self._books.segments:
                raise ProtocolError("its process is gone already")
        if shared and not self._books.segments[segment_id].shared:
            self._change("share", [segment_id])
        connection.segment = segment_id
        self._owners[segment_id].add(connection)
        return [self._books.segments[segment_id].references.offsets()]

    def _on_put(self, request_id: int, connection: Connection, *body: Any) -> Any:
        """Enter an object, once there is room for it: those that wait for it come first, unless
        they hold nothing and this one does: with its end, its inputs go.
        """
        # Segments that are to be adopted cannot wait: their descriptors are the next to be taken.
        patient = not any(body[_PUT_FIELDS:])
        if patient and any(bool(each.holds) >= bool(connection.holds) for each, *_ in self._full):
            own = [(connection.segment or b"", body[1])] if body[1] else []
            if self._books.new_bytes(own):
                return self._wait_for_room(connection, request_id, body)
        try:
            return self._put(connection, *body)
        except StoreFullError as error:
            if not patient or error.needed > self._budget:
                raise
            if not self._all_returned():
                return self._wait_for_room(connection, request_id, body)
            if not self._evictor.make_room(error.needed):
                raise
        try:  # what was dropped may be enough
            return self._put(connection, *body)
        except StoreFullError:
            if not self._spiller.is_busy:
                raise
        return self._wait_for_room(connection, request_id, body)

    def _wait_for_room(self, connection: Connection, request_id: int, body: Sequence[Any]) -> Any:
        self._full.append((connection, request_id, list(body)))
        return DEFERRED

    def _put(
        self,
        connection: Connection,
        object_id: bytes,
        own: bytes,
        foreign: Packed,
        message: bytes | None,
        transient: bool,
        owned: bool,
        counters: list[int],
        adopted: Sequence[tuple[bytes, int]] = (),
    ) -> list[bytes]:
        new = self._adopt(connection, adopted)
        try:
            entry = (object_id, own, foreign, message, transient, owned, counters)
            return self._enter(connection, *entry)
        finally:
            for segment_id in new:
                self._process_gone(segment_id)  # gone, too, if the put was refused

    def _adopt(self, connection: Connection, adopted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Take over sealed segments, which have no process; returns those that are new."""
        new = []
        fds = [connection.reader.take_descriptor() for _ in adopted]
        try:
            for (segment_id, size), fd in zip(adopted, fds, strict=True):
                check_segment(segment_id, fd, size, sealed=True)
                if segment_id not in self._books.segments:
                    self._descriptors[segment_id] = os.dup(fd)
                    self._change("segment", [segment_id, size, NO_PROCESS, 0])
                    new.append(segment_id)
        finally:
            for fd in fds:
                os.close(fd)
        return new

    def _enter(
        self,
        connection: Connection,
        object_id: bytes,
        own: bytes,
        foreign: Packed,
        message: bytes | None,
        transient: bool,
        owned: bool,
        counters: list[int],
    ) -> list[bytes]:
        put = self._admit(connection, object_id, own, foreign, message, counters, transient, owned)
        self._change("put", put)
        if transient:
            self._orphaned[object_id] = time.monotonic() + _GRACE_SECONDS
        self._evictor.idle(object_id)
        return [self._supervisor_id]

    def _admit(
        self,
        connection: Connection,
        object_id: bytes,
        own: bytes,
        foreign: Packed,
        message: bytes | None,
        counters: list[int],
        transient: bool = False,
        owned: bool = False,
    ) -> list[Any]:
        """Check a publication and make room for it; returns the event that enters it."""
        if not isinstance(object_id, bytes) or not (message is None or isinstance(message, bytes)):
            raise ProtocolError("an object's id and message are bytes")
        if object_id in self._books.objects:
            raise ObjectExistsError(
                f"object {object_id.hex()} exists already; objects never change"
            )
        allocations = [(segment_id, packed) for segment_id, packed in foreign if packed]
        self._check_foreign(allocations)
        if (own or owned) and connection.segment is None:
            raise ProtocolError("it publishes without having attached a segment")
        if own:
            assert connection.segment is not None
            allocations.append((connection.segment, own))
        if len(counters) != len(COUNTERS) or any(type(count) is not int for count in counters):
            raise ProtocolError("counters are numbers of bytes")
        if any(not 0 <= count <= _MOST_COUNTED for count in counters):
            raise ProtocolError("counters are numbers of bytes that a machine can have")
        needed = self._books.new_bytes(allocations)
        used = self._books.bytes_stored
        if needed and used + needed > self._budget:
            raise StoreFullError(needed=needed, used=used, budget=self._budget)
        owner = connection.segment if owned else None
        body = [object_id, allocations, message, bool(transient), owner]
        return [*body, counters, time.time()]

    def _check_foreign(self, allocations: Packed) -> None:
        for segment_id, packed in allocations:
            segment = self._books.segments.get(segment_id)
            if not packed or (segment is not None and segment.sealed):
                continue
            if segment is None or not segment.references.contains(packed):
                raise ObjectLostError(
                    f"an allocation of segment {segment_id.hex()} is not in the store any more"
                )

    def _all_returned(self) -> bool:
        """Whether the readers that a restarted store had before have had the time to come back."""
        return time.monotonic() >= self._returning_until

    def _on_get(self, connection: Connection, object_id: bytes) -> list[Any]:
        entry = self._take_hold(connection, object_id)
        return [entry.message, entry.allocations, entry.places()]

    def _on_hold(self, connection: Connection, object_id: bytes) -> list[Any]:
        return self._take_hold(connection, object_id).places()

    def _take_hold(self, connection: Connection, object_id: bytes) -> Object:
        entry = self._books.objects.get(object_id)
        # A reader that comes back after a crash of the store may hold what was deleted meanwhile.
        if entry is None or (entry.deleted and object_id not in self._orphaned):
            raise ObjectNotFoundError(object_id)
        connection.holds[object_id] += 1
        self._holders[object_id] += 1
        self._orphaned.pop(object_id, None)
        self._evictor.busy(object_id)
        return entry

    def _on_release(self, connection: Connection, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            if connection.holds[object_id] <= 0:
                raise ProtocolError("it released what it does not hold")
            connection.holds[object_id] -= 1
            if connection.holds[object_id] == 0:
                del connection.holds[object_id]
            self._release(object_id, 1)

    def _on_segments(self, connection: Connection, segment_ids: list[bytes]) -> list[Any]:
        missing = [s for s in segment_ids if s not in self._descriptors]
        if missing:
            raise ObjectLostError(f"segment {missing[0].hex()} is not in the store any more")
        if len(segment_ids) > protocol.MAX_DESCRIPTORS:
            raise ProtocolError("it asks for too many segments at once")
        # Reopened read-only: what is given away can neither be written nor truncated.
        fds: list[int] = []
        try:
            for segment_id in segment_ids:
                path = f"/proc/self/fd/{self._descriptors[segment_id]}"
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        segments = [self._books.segments[segment_id] for segment_id in segment_ids]
        return [[s.size for s in segments], [s.checksums for s in segments], fds]

    def _on_delete(self, connection: Connection, object_ids: list[bytes], missing_ok: bool) -> None:
        if not missing_ok:
            for object_id in object_ids:
                entry = self._books.objects.get(object_id)
                if entry is None or entry.deleted:
                    raise ObjectNotFoundError(object_id)
        for object_id in object_ids:
            self._delete(object_id)

    def _on_list(self, connection: Connection) -> list[Any]:
        return [
            [object_id, entry.nbytes, entry.created, self._holders[object_id], entry.transient]
            for object_id, entry in self._books.objects.items()
            if not entry.deleted
        ]

    def _on_stats(self, connection: Connection) -> dict[str, Any]:
        return {
            "objects": sum(not entry.deleted for entry in self._books.objects.values()),
            "bytes_stored": self._books.bytes_stored,
            "bytes_spilled": self._books.bytes_spilled,
            **self._books.counters,
            "spill_bandwidth": int(self._spiller.write_bandwidth),
            "read_back_bandwidth": int(self._spiller.read_bandwidth),
            "budget": self._budget,
            "eviction": self._eviction,
            "segments": len(self._books.segments),
            "clients": sum(c is not self._supervisor for c in self._connections.values()),
            "pid": os.getpid(),
            "supervised": self._supervisor is not None,
        }

    def _on_memory(self, connection: Connection) -> dict[str, Any]:
        return account(self._books, self._holders, self._resident(), self._budget)

    def _on_evictions(self, connection: Connection) -> list[Any]:
        return [list(vars(record).values()) for record in self._evictor.records.rows()]

    def _on_read_back(
        self, connection: Connection, files: list[tuple[bytes, int]], seconds: float
    ) -> None:
        total = sum(nbytes for _, nbytes in files)
        for file_id, nbytes in files:
            if file_id in self._books.segments:
                self._evictor.read_back(file_id, nbytes, float(seconds) * nbytes / total)

    def _on_evicted(
        self, connection: Connection, name: str, nbytes: int, expected: float, seconds: float
    ) -> None:
        record = Record(
            time.time(), "rollback", str(name), int(nbytes), float(expected), float(seconds), True
        )
        self._evictor.records.add(os.urandom(8), record)

    def _on_shutdown(self, connection: Connection) -> None:
        self._stop()

    # --- lives ---

    def _change(self, kind: str, body: list[Any]) -> Freed:
        """Apply an event here and at the supervisor."""
        freed = self._books.apply(kind, body)
        supervisor = self._supervisor
        if supervisor is not None:
            fds = [self._descriptors[body[0]]] if kind == "segment" else []
            self._tell(supervisor, kind, body, fds)
        return freed

    def _delete(self, object_id: bytes) -> None:
        entry = self._books.objects.get(object_id)
        if entry is None or entry.deleted:
            return
        if self._holders[object_id]:
            self._change("hide", [object_id])
        elif not self._all_returned():
            self._change("hide", [object_id])
            self._orphaned[object_id] = self._returning_until
        else:
            self._remove(object_id)

    def _release(self, object_id: bytes, count: int, readable_until: float = 0.0) -> None:
        self._holders[object_id] -= count
        if self._holders[object_id] > 0:
            return
        del self._holders[object_id]
        entry = self._books.objects.get(object_id)
        if entry is None:
            return
        if entry.deleted or entry.transient:
            self._remove(object_id)
        else:
            self._evictor.idle(object_id, readable_until)

    def _remove(self, object_id: bytes) -> None:
        self._orphaned.pop(object_id, None)
        self._evictor.busy(object_id)
        self._give_back(self._change("remove", [object_id]))

    def _give_back(self, freed: Freed) -> None:
        """Tell the owners what nothing refers to any more; of the dead it is punched here."""
        for segment_id, offsets in freed:
            if segment_id in self._dead:
                self._punch_gaps(segment_id)
                continue
            # Each client of the owning process unpins what it has pinned itself.
            for owner in list(self._owners.get(segment_id, ())):
                self._tell(owner, "freed", offsets)

    def _watch_process(self, segment_id: bytes) -> None:
        segment = self._books.segments[segment_id]
        if segment.pid == NO_PROCESS:
            self._process_gone(segment_id)
            return
        pidfd = open_pidfd(segment.pid)
        if pidfd is None or start_time(segment.pid) != segment.started:
            if pidfd is not None:
                os.close(pidfd)
            self._process_gone(segment_id)
            return

        def gone(*_: Any) -> None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
            self._process_gone(segment_id)

        self._selector.register(pidfd, selectors.EVENT_READ, gone)

    def _process_gone(self, segment_id: bytes) -> None:
        for object_id in [o for o, e in self._books.objects.items() if e.owner == segment_id]:
            self._delete(object_id)
        self._dead.add(segment_id)
        self._punch_gaps(segment_id)

    def _punch_gaps(self, segment_id: bytes) -> None:
        """Give back a dead process's memory that no object refers to; all of it ends the
        segment.
        """
        segment = self._books.segments[segment_id]
        fd = self._descriptors[segment_id]
        if not segment.references:
            self._change("segment_gone", [segment_id])
            os.close(self._descriptors.pop(segment_id))
            self._dead.discard(segment_id)
            for connection in list(self._connections.values()):
                if connection.greeted and connection is not self._supervisor:
                    self._tell(connection, "segment_gone", segment_id)
            return
        # Another store may refer to what this one does not; what is sealed goes as a whole.
        if segment.shared or segment.sealed:
            return
        for start, end in segment.references.gaps(segment.size):
            punch(fd, start, end)

    def _tick(self) -> None:
        now = time.monotonic()
        # In the order in which they were orphaned: most often the first is not due.
        while (object_id := next(iter(self._orphaned), None)) is not None:
            if self._orphaned[object_id] >= now:
                break
            del self._orphaned[object_id]
            entry = self._books.objects.get(object_id)
            if entry is not None and not self._holders[object_id]:
                self._remove(object_id)
        if now - self._ticked >= 1.0:
            self._ticked = now
            resident = self._resident()
            # Freed memory that producers keep warm goes first; what is left then is used.
            self._evictor.tick(resident if self._crowded else 0)
            self._bound_warm(resident)
            if self._full and not self._spiller.is_busy:
                self._let_in()
        alone = self._supervisor is None and now - self._alone_since > _SUPERVISOR_SECONDS
        if alone and not self._respawn:
            logger.warning("no supervisor for %d s: stopping", _SUPERVISOR_SECONDS)
            self._stop()

    # --- spilling ---

    def _is_idle(self, object_id: bytes) -> bool:
        return object_id in self._books.objects and not self._holders[object_id]

    def _resident(self) -> int:
        """Bytes that all segments have in memory, published or not."""
        segments = self._books.segments
        return sum(
            resident_bytes(fd)
            for segment_id, fd in self._descriptors.items()
            if not segments[segment_id].spilled
        )

    def _bound_warm(self, resident: int) -> None:
        """While memory is short, producers keep no freed memory warm; then again as they like."""
        crowded = resident > HIGH_WATERMARK * self._budget
        if not (crowded or self._crowded):
            return
        self._crowded = crowded
        for owners in list(self._owners.values()):
            for owner in list(owners):
                self._tell(owner, "warm", 0 if crowded else None)

    def _spilled(self, *_: Any) -> None:
        self._evictor.conclude()
        self._let_in()

    def _let_in(self) -> None:
        """Enter the waiting objects that fit now, in their order; who holds inputs goes first."""
        waiting = deque(sorted(self._full, key=lambda each: not each[0].holds))
        self._full.clear()
        while waiting and not self._full:
            connection, request_id, body = waiting.popleft()
            if connection.socket.fileno() < 0:
                continue
            try:
                self._answer(connection, "put", request_id, body)
            except (OSError, ProtocolError) as error:
                logger.warning("dropped process %d: %s", connection.pid, error)
                self._drop(connection)
        self._full.extend(waiting)

    def _respawn_supervisor(self) -> None:
        command = [sys.executable, "-m", "zerrow_store.node.supervisor", "--name", self._name]
        command += ["--budget", str(self._budget), "--eviction", self._eviction]
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


def main() -> int:
    parser = argparse.ArgumentParser(description="The node store's server.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--eviction", required=True)
    parser.add_argument("--supervisor-fd", type=int, required=True)
    parser.add_argument("--watch-pid", type=int)
    parser.add_argument("--respawn-supervisor", action="store_true")
    arguments = parser.parse_args()
    # A process of its own, not a child of the supervisor: it outlives it.
    if os.fork():
        os._exit(0)
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        server = Server(
            arguments.name,
            arguments.budget,
            arguments.eviction,
            arguments.watch_pid,
            arguments.respawn_supervisor,
        )
    except OSError as error:
        logger.warning("a store named %s is running already: %s", arguments.name, error)
        return ALREADY_RUNNING
    signal.signal(signal.SIGTERM, server.stop)
    server.restore(socket.socket(fileno=arguments.supervisor_fd))
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
