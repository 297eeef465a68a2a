"""Replication of the object table to the store's supervisors: a snapshot first, then every change.

With the server they are three processes, of which two may be killed at once. A supervisor that does
not keep up is dropped: it would start a server with an outdated object table.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Sequence

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.server.change_count import ChangeCount
from zerrow_store.server.connection import Call, Connection
from zerrow_store.server.connections import Connections
from zerrow_store.server.replica import Replica
from zerrow_store.server.send_buffer import MOST_UNSENT
from zerrow_store.server.supervisor import SPARE

logger = logging.getLogger("zerrow_store.server")

_MOST = 2
_OTHERS_SECONDS = 2.0


class Replication:
    """See the module. replica: what the supervisors are given. listener_fd: on which clients
    connect; the supervisors have it, too, so that clients wait while the server is started again.
    command: starts a supervisor. connections: all of the server.

    _identities: those that are given every change, with what they are known by; _complete: those of
    them that have been given everything.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        listener_fd: int,
        command: list[str],
        connections: Connections,
    ) -> None:
        self._replica = replica
        self._listener_fd = listener_fd
        self._command = command
        self._connections = connections
        self._changes = ChangeCount()
        self._identities: dict[Connection, bytes] = {}
        self._complete: list[Connection] = []
        self._behind: set[Connection] = set()
        self._started: list[subprocess.Popen[bytes]] = []
        self._others_come_until = 0.0
        self._ended = False

    def __len__(self) -> int:
        """How many supervisors have everything."""
        return len(self._complete)

    def restored_from(self, connection: Connection, identity: bytes, changes: ChangeCount) -> None:
        """Note the supervisor from which the object table has come, and go on counting changes. If
        the store was started again, the other one is about to connect.
        """
        self._changes.close()
        self._changes = changes
        self._identities[connection] = identity
        self._complete.append(connection)
        self._share(connection)
        if self._replica.table.objects:
            self._others_come_until = time.monotonic() + _OTHERS_SECONDS

    def replicate(self, event: events.Event, fds: Sequence[int]) -> None:
        """Send an event to all supervisors."""
        self._changes.count()
        self._connections.send(self._identities, event, fds)

    def hand_over(self, connection: Connection, identity: bytes) -> None:
        """Send a new supervisor a snapshot. It says so (`has_all`) when it has all of it."""
        self._identities[connection] = identity
        connection.send_buffer.limit = sys.maxsize  # the object table may be larger than any limit
        for event, fds in self._replica.snapshot():
            self._connections.send([connection], event, fds)
        self._share(connection)
        connection.send_buffer.limit = connection.send_buffer.unsent + MOST_UNSENT

    def has_all(self, call: Call, request: m.TakeOver) -> None:
        """Count a supervisor that has the whole snapshot. If there are too many now, one that a
        server has started is told to end. Raises ProtocolError if it was sent no snapshot.
        """
        connection = call.connection
        if connection not in self._identities or connection in self._complete:
            raise ProtocolError("`take_over` without a snapshot")
        self._complete.append(connection)
        spare = [each for each in self._complete if self._identities[each].startswith(SPARE)]
        if len(self._complete) > _MOST and spare:
            self._connections.send(spare[:1], events.Stopping())
            self._connections.fail(spare[0], ConnectionAbortedError("there are enough supervisors"))

    def dropped(self, connection: Connection) -> None:
        """Note that a connection has ended, which may be a supervisor's."""
        self._identities.pop(connection, None)
        if connection in self._complete:
            self._complete.remove(connection)
            logger.warning("a supervisor has gone")
            self._start()

    def tick(self) -> None:
        """Drop a supervisor that does not keep up: it may connect again, and is sent a new
        snapshot. Start one if there are too few.
        """
        behind = {each for each in self._complete if each.send_buffer}
        if len(behind) < len(self._complete):
            for each in behind & self._behind:
                self._connections.fail(each, ProtocolError("it does not keep up"))
        self._behind = behind
        self._start()

    def end(self) -> None:
        """Tell the supervisors that the store's end is meant."""
        self._ended = True
        self._changes.end()  # for those that were left behind
        self._connections.send(self._identities, events.Stopping())
        for process in self._on_their_way():
            process.terminate()  # it would find no store, and start one

    def connections(self) -> list[Connection]:
        """Return the connections of all supervisors, also of those that are given the object table
        now."""
        return list(self._identities)

    def _share(self, supervisor: Connection) -> None:
        """Send a supervisor what it shares with the server: the count of changes, by which it sees
        whether it keeps up, and the listening socket, on which clients wait for a new server.
        """
        shared = [self._listener_fd, self._changes.fd]
        self._connections.send([supervisor], events.Following(self._changes.value), shared)

    def _start(self) -> None:
        """Start a supervisor if there are too few, and none is on its way."""
        if self._complete and time.monotonic() < self._others_come_until:
            return
        self._started = [process for process in self._started if process.poll() is None]
        if self._ended or len(self._complete) >= _MOST or self._on_their_way():
            return
        try:
            self._started.append(
                subprocess.Popen(self._command, start_new_session=True, stdin=subprocess.DEVNULL)
            )
        except OSError as error:  # tried again at the next tick
            logger.warning("cannot start a supervisor: %s", error)

    def _on_their_way(self) -> list["subprocess.Popen[bytes]"]:
        here = {each.pid for each in self._complete}
        return [process for process in self._started if process.pid not in here]
