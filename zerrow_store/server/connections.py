"""The connections of a server.

A connection that fails, because its peer is gone or does not read, is only marked, and nothing is
written to it any more. The server drops it after the handler has returned, so sending never enters
a handler again.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol import framing
from zerrow_store.protocol.schema import Message
from zerrow_store.server.connection import Connection

logger = logging.getLogger("zerrow_store.server")


class Connections:
    """See the module."""

    def __init__(self) -> None:
        self._open: dict[Connection, None] = {}
        self._failed: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Enter a connection."""
        self._open[connection] = None

    def close(self, connection: Connection) -> None:
        """Close a connection, which is none of these any more."""
        del self._open[connection]
        self._failed.pop(connection, None)
        connection.close()

    def greeted(self, role: str | None = None) -> Iterator[Connection]:
        """Iterate over those that have said hello as `role`; by default, all but supervisors."""
        for each in self._open:
            if each.greeted and (each.role == role if role else each.role != "supervisor"):
                yield each

    def send(
        self, connections: Iterable[Connection], message: Message, descriptors: Sequence[int] = ()
    ) -> None:
        """Send what the peers have not asked for. Those that miss it are dropped."""
        try:
            frame = framing.pack(message.kind, 0, message, len(descriptors))
        except ProtocolError as error:  # it is too large
            for each in connections:
                self.fail(each, error)
            return
        for each in connections:
            self.send_frame(each, frame, descriptors)

    def send_frame(
        self, connection: Connection, frame: bytes, descriptors: Sequence[int] = ()
    ) -> None:
        """Send a frame, unless the connection is closed or has failed before."""
        if connection.closed or connection in self._failed:
            return
        try:
            connection.send_frame(frame, descriptors)
        except (OSError, ProtocolError) as error:
            self.fail(connection, error)

    def fail(self, connection: Connection, reason: Exception | None = None) -> None:
        """Note that a connection is to be dropped; without a reason, the peer has hung up."""
        if connection.closed or connection in self._failed:
            return
        self._failed[connection] = None
        if isinstance(reason, ProtocolError):
            logger.warning("dropped process %d: %s", connection.pid, reason)
        elif reason is not None:
            logger.info("lost process %d: %s", connection.pid, reason)

    def failed(self) -> Connection | None:
        """Return one that is to be dropped."""
        return next(iter(self._failed), None)
