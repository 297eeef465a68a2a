"""The node store's server; data never passes through it.

Run as `python -m zerrow_store.server.server`. One thread, one selector; imports neither pyarrow nor
numpy. Whatever happens (a request, a connection's or process's end, a second that has passed) is
handled to its end first, and its effects are carried out then (`effects`).

A client's holds end with its connection; a segment with its process, as a connection may drop while
the process lives, and a forked child may keep it open. Every change of the object table is sent to
the supervisors before the client is answered (`replication`).
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
from pathlib import Path
from typing import Any

from zerrow_store import logs
from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.errors import ProtocolError
from zerrow_store.policy import load_policy
from zerrow_store.processes import allow_many_descriptors, open_pidfd
from zerrow_store.protocol import events, framing, messages
from zerrow_store.protocol.notices import Freed
from zerrow_store.server.change_count import ChangeCount
from zerrow_store.server.companion import Companion, Lasting
from zerrow_store.server.connection import Connection
from zerrow_store.server.connections import Connections
from zerrow_store.server.core import Core
from zerrow_store.server.delivery import Delivery
from zerrow_store.server.dispatcher import Dispatcher
from zerrow_store.server.effects import Notify
from zerrow_store.server.handlers import handlers_of
from zerrow_store.server.launch import store_command
from zerrow_store.server.listener import Listener
from zerrow_store.server.replication import Replication
from zerrow_store.server.statistics import Statistics

logger = logging.getLogger("zerrow_store.server")

_PATIENCE_SECONDS = 5.0


class Server:
    """The parts of a server, and the loop that lets them act; see the module.

    The constructor is long because it makes all parts, each of those before it.

    Parameters
    ----------
    name
        The store's name.
    budget
        The bytes that the store may hold in memory.
    eviction
        The name of the policy, see `policy`.
    log
        Where this process logs.
    watched
        The pid of a process with whose end the store ends.
    listener
        The socket on which clients connect.
    lasting
        What the store does for as long as it runs.
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
        self._budget = budget
        self._watched = watched
        self._lasting = lasting
        self._selector = selectors.DefaultSelector()
        self._core = Core(budget, load_policy(eviction), self._selector)
        self._connections = Connections()
        self._listener = Listener(listener, self._connected)
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
            self._core.state.replica,
            listener_fd=listener.fileno(),
            command=[*command, "--spare"],
            connections=self._connections,
        )
        statistics = Statistics(
            self._core, self._connections, self._replication, eviction=eviction, log=str(log)
        )
        self._dispatcher = Dispatcher(
            {
                **handlers_of(self._core),
                messages.TakeOver: self._replication.has_all,
                messages.Stats: statistics.report,
                messages.History: statistics.history,
                messages.Count: statistics.count,
            },
            self._core.effects,
        )
        self._statistics = statistics
        self._delivery = Delivery(self._connections, self._replication, statistics)
        self._companion = Companion(name, lasting.companion)
        self._used = time.monotonic()
        self._ticked = 0.0
        self._crowded = False
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
        while (mark := self._core.state.replica.receive(frame := reader.read(supervisor))) is None:
            pass
        if not isinstance(mark, events.Restored):
            raise ProtocolError(f"the supervisor sent {mark.kind!r} amid the object table")
        (changes,) = frame.take_descriptors(mark.descriptors)
        connection = self._connected(supervisor)
        connection.greeted, connection.role, connection.reader = True, "supervisor", reader
        self._replication.restored_from(connection, mark.identity, ChangeCount(changes))
        self._core.restored()
        self._deliver()
        self._answer_frames(connection)
        self._carry_out()

    def run(self) -> None:
        """Serve until stopped."""
        self._listener.register(self._selector)
        self._selector.register(self._stop_reading, selectors.EVENT_READ, self._stop)
        self._selector.register(self._core.spiller.done, selectors.EVENT_READ, self._spilled)
        if self._watched is not None:
            pidfd = open_pidfd(self._watched)
            if pidfd is None:
                return
            self._selector.register(pidfd, selectors.EVENT_READ, self._stop)
        while not self._delivery.stopped:
            for key, ready in self._selector.select(timeout=1.0):
                key.data(key.fileobj, ready)
                self._carry_out()
            self._tick()
            self._carry_out()
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

    def _connected(self, sock: socket.socket) -> Connection:
        connection = Connection(sock, self._selector, self._serve)
        self._connections.add(connection)
        if connection.uid != os.getuid():
            logger.warning("refused a process of user %d", connection.uid)
            self._connections.fail(connection)
        return connection

    def _serve(self, connection: Connection, ready: int) -> None:
        """Do what a connection is ready for. It may have been closed since it was."""
        if connection.closed:
            return
        try:
            if ready & selectors.EVENT_WRITE:
                connection.flush()
            if ready & selectors.EVENT_READ:
                with contextlib.suppress(BlockingIOError):
                    if not connection.reader.feed(connection.socket):
                        self._connections.fail(connection)
                        return
                self._answer_frames(connection)
        except (OSError, ProtocolError) as error:
            self._connections.fail(connection, error)

    def _answer_frames(self, connection: Connection) -> None:
        """Answer all requests that have arrived whole, also of a peer that does not read."""
        while frame := connection.reader.next():
            self._dispatcher.dispatch(connection, frame)
            self._deliver()

    # --- effects ---

    def _carry_out(self) -> None:
        """Carry out all effects, also those of connections that end over that."""
        if self._core.idle.wanted_came:
            self._core.evictor.spill_wanted()
        self._deliver()
        while failed := self._connections.failed():
            self._drop(failed)
            self._deliver()

    def _deliver(self) -> None:
        """Carry out the effects of what was done last."""
        effects = self._core.effects.take()
        if any(isinstance(each, Notify) and isinstance(each.notice, Freed) for each in effects):
            # A producer has to know its bound before it is told what it may free: the memory of an
            # object that goes stays warm for its next one.
            self._core.quota.share_changed()
            effects = [*self._core.effects.take(), *effects]
        self._delivery.carry_out(effects)

    def _drop(self, connection: Connection) -> None:
        self._connections.close(connection)
        self._replication.dropped(connection)
        self._core.dropped(connection)

    # --- the course of time ---

    def _tick(self) -> None:
        now = time.monotonic()
        self._core.quota.share_changed()
        if now - self._ticked >= 1.0:
            self._ticked = now
            self._core.readers.tick()
            self._core.processes.tick()
            resident = self._core.state.resident()
            self._core.quota.share()
            # Time for producers to give up freed memory first; what is left then is used.
            self._core.evictor.tick(resident if self._crowded else 0)
            self._core.evictor.note_read_ahead(self._core.page_cache)
            self._core.lifetimes.trim_page_cache(resident)
            self._crowded = resident > HIGH_WATERMARK * self._budget
            self._core.quota.hold_back(resident)
            self._statistics.tick(now, resident)
            self._core.put_queue.tick()
            self._core.owners.tick()
            self._replication.tick()
            self._companion.ensure_running()
            self._end_if_unused(now)

    def _end_if_unused(self, now: float) -> None:
        if any(self._connections.greeted("client")) or self._core.state.table.has_results():
            self._used = now
        elif now - self._used > (self._lasting.unused_seconds or math.inf):
            logger.info("nobody uses the store any more")
            self._core.effects.stop()

    def _spilled(self, *_: Any) -> None:
        self._core.evictor.conclude()
        self._core.quota.room_was_made()
        self._core.put_queue.let_in()

    def _stop(self, *_: Any) -> None:
        self._core.effects.stop()


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
