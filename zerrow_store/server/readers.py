"""Clients that lose their connection keep their holds until they return, or their process ends.

The object table lists all clients. A client whose connection ends without a goodbye may go on
reading what it held. After the server was started again that is true of all clients, and their
holds are unknown until they have returned. No timeout ends a client's absence: its process may be
stopped, or starved, for any time. A process that becomes another program counts as the client until
that program ends.
"""

import logging
import os
import selectors
from collections import Counter

from zerrow_store.processes import open_pidfd, start_time
from zerrow_store.protocol import events
from zerrow_store.server.connection import Connection
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.state import Absent, State

logger = logging.getLogger("zerrow_store.server")


class Readers:
    """See the module."""

    def __init__(
        self, state: State, lifetimes: Lifetimes, selector: selectors.BaseSelector
    ) -> None:
        self._state = state
        self._table = state.table
        self._lifetimes = lifetimes
        self._selector = selector
        self._present: dict[bytes, Connection] = {}

    def restored(self) -> None:
        """Wait for all clients of a store that was started again, of which nobody knows what they
        hold.
        """
        # All of them first: one that has ended must not be taken for the last one.
        self._state.absent = {identity: Absent(None) for identity in self._table.readers}
        for identity in list(self._state.absent):
            self._watch(identity)

    def came(self, connection: Connection) -> None:
        """Note a client that has said hello. If it was absent, its holds stay until `returned`."""
        if not connection.pid:  # in a namespace of its own: its end could not be seen
            connection.identity = b""
        if connection.identity and connection.identity not in self._table.readers:
            started = start_time(connection.pid)
            self._state.change(events.ReaderAdded(connection.identity, connection.pid, started))

    def returned(self, connection: Connection) -> None:
        """Note that a client holds again all that it holds."""
        if connection.identity:
            self._present[connection.identity] = connection
            self._end(connection.identity)

    def said_goodbye(self, connection: Connection) -> None:
        """Note that a client reads nothing any more."""
        identity, connection.identity = connection.identity, b""
        holds = connection.holds.copy()
        connection.holds.clear()
        self._release_all(holds)
        self._gone(identity)

    def dropped(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        identity = connection.identity
        present = self._present.get(identity)
        if present is connection:
            del self._present[identity]
        if identity not in self._table.readers or present not in (None, connection):
            # It has not named itself; or it has returned before this end was noticed.
            self._release_all(connection.holds)
            return
        absent = self._state.absent.setdefault(identity, Absent(Counter()))
        if absent.holds is None:  # still: it has not said all
            self._release_all(connection.holds)
            return
        absent.holds += connection.holds
        self._watch(identity)

    def tick(self) -> None:
        """Watch the processes for which there was no descriptor left."""
        for identity in [i for i, absent in self._state.absent.items() if absent.pidfd is None]:
            self._watch(identity)

    def _watch(self, identity: bytes) -> None:
        """Have an absent client end with its process."""
        absent = self._state.absent[identity]
        if absent.pidfd is not None:
            return
        pid, started = self._table.readers[identity]
        try:
            pidfd = open_pidfd(pid)
        except OSError as error:
            logger.warning("a process's end cannot be watched for: %s", error)
            return
        if pidfd is None or start_time(pid) != started:
            if pidfd is not None:
                os.close(pidfd)
            self._gone(identity)
            return
        try:
            self._selector.register(pidfd, selectors.EVENT_READ, lambda *_: self._gone(identity))
        except OSError as error:
            logger.warning("a process's end cannot be watched for: %s", error)
            os.close(pidfd)
            return
        absent.pidfd = pidfd

    def _gone(self, identity: bytes) -> None:
        self._present.pop(identity, None)
        if identity in self._table.readers:
            self._state.change(events.ReaderRemoved(identity))
        self._end(identity)

    def _end(self, identity: bytes) -> None:
        """End a client's absence, and the holds that it had before."""
        absent = self._state.absent.pop(identity, None)
        if absent is None:
            return
        if absent.pidfd is not None:
            self._selector.unregister(absent.pidfd)
            os.close(absent.pidfd)
        if absent.holds is not None:
            self._release_all(absent.holds)
        elif self._state.all_returned():
            self._lifetimes.end_orphans()

    def _release_all(self, holds: Counter[bytes]) -> None:
        for object_id, count in holds.items():
            self._lifetimes.release(object_id, count)
