"""The node store's server: descriptors and the object table; data never passes through it.

Run as `python -m zerrow_store.server.server`. One thread, one selector; imports neither pyarrow nor
numpy. A client's holds end with its connection; a segment with its process, as a connection may
drop while the process lives, and a forked child may keep it open. Every change of the object table
is sent to the supervisors before the client is answered (`replication`). Here are connections and
requests; `lifetimes` keeps the object table, `put_queue` lets objects in, `decode_cache` answers
for decoded columns.
"""

import argparse
import contextlib
import gc
import logging
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zerrow_store import logs
from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.errors import InternalError, ProtocolError, ZerrowError
from zerrow_store.policy import load_policy
from zerrow_store.processes import allow_many_descriptors, open_pidfd
from zerrow_store.protocol import events, framing, messages, notices
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import Greeting
from zerrow_store.protocol.reports import StoreStats
from zerrow_store.protocol.wire_errors import describe
from zerrow_store.server.companion import Companion, Lasting
from zerrow_store.server.connection import DEFERRED, Call, Connection, WithDescriptors
from zerrow_store.server.decode_cache import DecodeCache
from zerrow_store.server.handlers import Handlers
from zerrow_store.server.launch import store_command
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.owners import Owners
from zerrow_store.server.producer_quota import ProducerQuota
from zerrow_store.server.put_queue import Put, PutQueue
from zerrow_store.server.replication import Replication

logger = logging.getLogger("zerrow_store.server")

_PATIENCE_SECONDS = 5.0


class Server:
    """See the module. `budget` is in bytes; `watched` is the pid whose end is the store's end.

    eviction: a policy's name. log: where this process logs. listener: on which clients connect.
    lasting: what the store is to do for as long as it runs.
    """

    def __init__(
        self,
        name: str,
        *,
        budget: int,
        eviction: str,
        log: Path,
        watched: int | None,
        listener: socket.socket,
        lasting: Lasting = Lasting(),  # noqa: B008  # it never changes
    ) -> None:
        self._name = name
        self._budget = budget
        self._eviction = eviction
        self._log = log
        self._watched = watched
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._lifetimes = Lifetimes(
            budget,
            load_policy(eviction),
            self._selector,
            replicate=lambda *event: self._replication.replicate(*event),
            tell=self._tell,
            clients=self._clients,
            freeing=lambda: self._quota.share_changed(),
        )
        command = store_command(
            "zerrow_store.server.supervisor",
            name,
            budget=budget,
            eviction=eviction,
            log=log,
            watch_pid=watched,
            lasting=lasting,
        )
        self._replication = Replication(
            self._lifetimes.replica,
            listener_fd=listener.fileno(),
            command=[*command, "--spare"],
            send=self._send,
            drop=self._note_broken,
        )
        self._quota = ProducerQuota(self._lifetimes, budget, tell=self._tell)
        self._put_queue = PutQueue(self._lifetimes, budget, retry=self._retry_put)
        self._owners = Owners(
            self._put_queue, self._lifetimes, tell=self._tell, retry=self._retry_put
        )
        self._cache = DecodeCache(
            self._lifetimes.table,
            self._lifetimes.holders,
            hold=self._lifetimes.take_hold,
            change=self._lifetimes.change,
            delete=self._lifetimes.delete,
            check_own=self._put_queue.check_own,
            admit=self._put_queue.admit,
            adopt=self._put_queue.adopt,
            settle=self._put_queue.settle,
            answer=self._answer_later,
            decoded=self._lifetimes.evictor.decoded,
            make_room=self._lifetimes.evictor.make_room,
        )
        self._handlers = Handlers(
            self._lifetimes,
            self._quota,
            self._put_queue,
            self._owners,
            self._cache,
            budget,
            {
                m.Hello: self._greet,
                m.TakeOver: self._take_over,
                m.Stats: self._stats,
                m.Count: self._count,
                m.Shutdown: self._shut_down,
            },
        )
        self._lasting = lasting
        self._companion = Companion(name, lasting.companion)
        self._puts = 0
        self._puts_refused: Counter[str] = Counter()
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._used = time.monotonic()
        self._ticked = 0.0
        self._crowded = False
        self._connections: dict[int, Connection] = {}
        self._broken: set[Connection] = set()
        self._running = True
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._stop_reading, self._stop_writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def restore(self, supervisor: socket.socket) -> None:
        """Take over the object table that the supervisor kept, over a socket that it made for
        that.

        Raises
        ------
        ProtocolError
            If the supervisor does not send what a server of this version takes.
        """
        reader = framing.FrameReader()
        while (mark := self._lifetimes.replica.receive(reader.read(supervisor))) is None:
            pass
        if not isinstance(mark, events.Restored):
            raise ProtocolError(f"the supervisor sent {mark.kind!r} amid the object table")
        connection = self._add(supervisor)
        connection.greeted, connection.reader = True, reader
        self._replication.restored_from(connection, mark.identity)
        self._lifetimes.restored()
        while waiting := reader.next():
            self._answer(connection, waiting)

    def run(self) -> None:
        """Serve until stopped."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._stop_reading, selectors.EVENT_READ, self._stop)
        self._selector.register(self._lifetimes.spiller.done, selectors.EVENT_READ, self._spilled)
        if self._watched is not None:
            pidfd = open_pidfd(self._watched)
            if pidfd is None:
                return
            self._selector.register(pidfd, selectors.EVENT_READ, self._stop)
        while self._running:
            for key, ready in self._selector.select(timeout=1.0):
                key.data(key.fileobj, ready)
                self._drop_broken()
            self._tick()
            self._drop_broken()
        for supervisor in self._replication.connections():
            # It has to read that the end is meant, after all that it has not read yet: also one
            # that is just being given the object table, which would start a store without it.
            supervisor.socket.settimeout(_PATIENCE_SECONDS)
            with contextlib.suppress(OSError):
                supervisor.send_buffer.flush()

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
        try:
            connection = self._add(sock)
        except OSError as error:
            logger.warning("cannot take a connection: %s", error)
            sock.close()
            return
        if connection.uid != os.getuid():
            logger.warning("refused a process of user %d", connection.uid)
            self._drop(connection)

    def _refuse(self, error: OSError) -> None:
        """Without descriptors left, a spare one serves to hang up: nobody waits for an answer."""
        logger.warning("cannot take a connection: %s", error)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _add(self, sock: socket.socket) -> Connection:
        connection = Connection(sock, self._selector, self._serve)
        self._connections[sock.fileno()] = connection
        return connection

    def _serve(self, connection: Connection, events: int) -> None:
        if connection.closed:  # since the selector has seen what there was to do
            return
        try:
            if events & selectors.EVENT_WRITE:
                connection.flush()
            if events & selectors.EVENT_READ:
                with contextlib.suppress(BlockingIOError):
                    if not connection.reader.feed(connection.socket):
                        self._drop(connection)
                        return
                while frame := connection.reader.next():
                    self._answer(connection, frame)
        except ProtocolError as error:
            logger.warning("dropped process %d: %s", connection.pid, error)
            self._drop(connection)
        except OSError as error:
            logger.info("lost process %d: %s", connection.pid, error)
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        if connection.closed:
            return
        del self._connections[connection.socket.fileno()]
        connection.close()
        self._replication.dropped(connection)
        if connection.segment is not None:
            self._lifetimes.owners[connection.segment].discard(connection)
            if not self._lifetimes.owners[connection.segment]:
                del self._lifetimes.owners[connection.segment]
        self._lifetimes.readers.dropped(connection)
        self._cache.dropped(connection)
        self._owners.dropped(connection)
        self._put_queue.dropped(connection)

    def _drop_broken(self) -> None:
        while self._broken:
            self._drop(self._broken.pop())

    def _tell(self, connection: Connection, notice: notices.Notice) -> None:
        self._send(connection, notice.kind, notice)

    def _send(self, connection: Connection, kind: str, body: Any, fds: Sequence[int] = ()) -> None:
        """Send what nobody has asked for. Who does not take it is dropped later: nothing ends amid
        a request.
        """
        if connection in self._broken:
            return
        try:
            connection.send(kind, 0, body, fds)
        except (OSError, ProtocolError) as error:
            self._note_broken(connection, error)

    def _note_broken(self, connection: Connection, error: Exception) -> None:
        logger.info("lost process %d: %s", connection.pid, error)
        self._broken.add(connection)

    def _clients(self) -> list[Connection]:
        return [c for c in self._connections.values() if c.greeted and c not in self._replication]

    def _users(self) -> list[Connection]:
        """Return the connections of processes that use the store."""
        return [c for c in self._clients() if c.role == "client"]

    # --- requests ---

    def _answer(self, connection: Connection, frame: framing.Frame) -> None:
        """Answer a request; whatever is wrong with it, or with its handler, is an answer, too.

        Raises ProtocolError, for what ends the connection, and OSError if it is lost.
        """
        try:
            if not (connection.greeted or frame.kind == "hello"):
                raise ProtocolError(f"it began with {frame.kind!r}")
            call = Call(connection, frame.request_id, frame.descriptors)
            self._reply(call, frame.kind, lambda: self._handle(call, frame))
        finally:
            frame.close()

    def _handle(self, call: Call, frame: framing.Frame) -> Any:
        request = messages.decode(frame.kind, frame.raw)
        if len(frame.descriptors) != request.descriptors:
            wanted, came = request.descriptors, len(frame.descriptors)
            raise ProtocolError(f"{frame.kind!r} goes with {wanted} descriptors; {came} came")
        return self._handlers.handle(call, request)

    def _reply(self, call: Call, kind: str, handle: Callable[[], Any]) -> None:
        fds: list[int] = []
        try:
            try:
                reply = handle()
                if isinstance(reply, WithDescriptors):
                    reply, fds = reply.body, reply.descriptors
                if reply is DEFERRED or not call.request_id:
                    return
                answer = framing.pack("reply", call.request_id, reply, len(fds))
                self._puts += _is_put(call, kind)
            except Exception as error:
                for fd in fds:
                    os.close(fd)
                fds = []
                answer = self._refusal(call, kind, error)
            if call.request_id:
                call.connection.send_frame(answer, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _refusal(self, call: Call, kind: str, error: Exception) -> bytes:
        pid = call.connection.pid
        if _is_put(call, kind):
            self._puts_refused[type(error).__name__] += 1
        if isinstance(error, ProtocolError):
            logger.warning("refused a request of process %d: %s", pid, error)
        elif not isinstance(error, ZerrowError):
            logger.error("a request %r of process %d failed", kind, pid, exc_info=error)
            error = InternalError(
                f"the store failed over {kind!r}: {error!r}; its log, {self._log}, says where"
            )
        return framing.pack("error", call.request_id, describe(error))

    def _answer_later(self, call: Call, reply: Any) -> None:
        """Answer a request that was deferred; an error, if `reply` is one."""
        failed = isinstance(reply, ZerrowError)
        kind, body = ("error", describe(reply)) if failed else ("reply", reply)
        try:
            call.connection.send(kind, call.request_id, body)
        except (OSError, ProtocolError) as error:
            self._note_broken(call.connection, error)

    def _retry_put(self, put: Put) -> None:
        try:
            self._reply(put.call, "put", lambda: self._put_queue.enter(put))
        except (OSError, ProtocolError) as error:
            self._note_broken(put.call.connection, error)

    def _greet(self, call: Call, request: m.Hello) -> Greeting:
        connection = call.connection
        if connection.greeted:
            raise ProtocolError("it has said hello already")
        if request.version != framing.PROTOCOL_VERSION:
            raise ProtocolError(
                f"it speaks version {request.version}, the store {framing.PROTOCOL_VERSION}"
            )
        connection.greeted, connection.role = True, request.role
        if request.role == "supervisor":
            self._replication.hand_over(connection, request.identity)
            return self._greeting()
        connection.identity = request.identity
        self._lifetimes.readers.came(connection)
        if request.role == "agent":
            self._owners.agent_came(connection)
        return self._greeting()

    def _greeting(self) -> Greeting:
        return Greeting(framing.PROTOCOL_VERSION, os.getpid(), self._lifetimes.table.epoch)

    def _take_over(self, call: Call, request: m.TakeOver) -> None:
        self._replication.has_all(call.connection)

    def _stats(self, call: Call, request: m.Stats) -> StoreStats:
        table, spiller = self._lifetimes.table, self._lifetimes.spiller
        return StoreStats(
            objects=sum(not (e.deleted or e.is_elsewhere) for e in table.objects.values()),
            bytes_stored=table.bytes_stored,
            bytes_spilled=table.bytes_spilled,
            **table.counters,
            spill_bandwidth=int(spiller.write_bandwidth),
            spill_processor_bandwidth=int(spiller.processor_bandwidth),
            read_back_bandwidth=int(spiller.read_bandwidth),
            budget=self._budget,
            eviction=self._eviction,
            segments=len(table.segments),
            clients=len(self._users()),
            pid=os.getpid(),
            supervisors=len(self._replication),
            log=str(self._log),
            puts=self._puts,
            puts_waited=self._put_queue.waited,
            puts_refused=dict(self._puts_refused),
            evicted=self._lifetimes.evictor.records.totals,
            cache={"entries": len(table.cache.entries), **self._cache.counts},
            transfers=dict(self._counts["transfers"]),
            sandbox=dict(self._counts["sandbox"]),
        )

    def _count(self, call: Call, request: m.Count) -> None:
        self._counts[request.group].update(request.increments)

    def _shut_down(self, call: Call, request: m.Shutdown) -> None:
        self._stop()

    # --- the course of time ---

    def _tick(self) -> None:
        now = time.monotonic()
        self._quota.share_changed()
        if now - self._ticked >= 1.0:
            self._ticked = now
            self._lifetimes.readers.tick()
            resident = self._lifetimes.resident()
            self._quota.share()
            # Time for producers to give up freed memory first; what is left then is used.
            self._lifetimes.evictor.tick(resident if self._crowded else 0)
            self._lifetimes.note_read_ahead()
            self._lifetimes.trim_page_cache(resident)
            self._crowded = resident > HIGH_WATERMARK * self._budget
            self._quota.hold_back(resident)
            self._put_queue.tick()
            self._owners.tick()
            self._replication.tick()
            self._companion.have()
            self._end_if_unused(now)

    def _end_if_unused(self, now: float) -> None:
        if self._users() or self._lifetimes.table.has_results():
            self._used = now
        elif self._running and now - self._used > (self._lasting.unused_seconds or math.inf):
            logger.info("nobody uses the store any more")
            self._stop()

    def _spilled(self, *_: Any) -> None:
        self._lifetimes.evictor.conclude()
        self._quota.room_was_made()
        self._put_queue.let_in()

    def _stop(self, *_: Any) -> None:
        """End the store, and tell the supervisors that it is meant."""
        self._running = False
        self._replication.end()


def _is_put(call: Call, kind: str) -> bool:
    """Whether a process publishes; not the agent, for what other machines have."""
    return kind == "put" and call.connection.role == "client"


def collect_young_garbage() -> None:
    """Let Python's collector look at new objects only. The object table has no cycles, and to go
    through those of 100,000 objects takes a fifth of a second, in which nobody is answered.
    """
    gc.set_threshold(10_000, 10, 1 << 30)


def main() -> int:
    parser = argparse.ArgumentParser(description="The node store's server.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--eviction", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--supervisor-fd", type=int, required=True)
    parser.add_argument("--listener-fd", type=int, required=True)
    parser.add_argument("--claim-fd", type=int, required=True)
    parser.add_argument("--watch-pid", type=int)
    Lasting.add_arguments(parser)
    arguments = parser.parse_args()
    # A process of its own, not a child of the supervisor: it outlives it.
    if os.fork():
        os._exit(0)
    logs.start(arguments.log)
    collect_young_garbage()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_many_descriptors()
    with socket.socket(fileno=arguments.claim_fd):
        server = Server(
            arguments.name,
            budget=arguments.budget,
            eviction=arguments.eviction,
            log=arguments.log,
            watched=arguments.watch_pid,
            listener=socket.socket(fileno=arguments.listener_fd),
            lasting=Lasting.of(arguments),
        )
        signal.signal(signal.SIGTERM, server.stop)
        server.restore(socket.socket(fileno=arguments.supervisor_fd))
        logger.info("the store %s is started, with %d bytes", arguments.name, arguments.budget)
        server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
