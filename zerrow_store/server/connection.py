"""The server's end of a connection, which never blocks."""

import selectors
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zerrow_store.protocol import framing, sockets
from zerrow_store.server.send_buffer import SendBuffer

DEFERRED = object()
"""A handler's reply that is among its effects, or comes later."""


class Connection:
    """A client or the supervisor at the other end of a socket.

    `identity` is what a client is known by, `holds` counts its views of each object; `segment` is
    its process's, if attached.
    `owner_id`: what its process is known by as an owner of what others publish, if it may be one;
    `last_claimer`: who claimed what was last published here.
    Sending raises OSError when the peer is gone, ProtocolError when it does not read.
    """

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        serve: "Callable[[Connection, int], None]",
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.pid, self.uid = sockets.peer(sock)
        self.reader = framing.FrameReader(framing.MAX_REQUEST)
        self.greeted = False
        self.role = ""
        self.identity = b""
        self.closed = False
        self.holds: Counter[bytes] = Counter()
        self.segment: bytes | None = None
        self.owner_id = b""
        self.last_claimer: Connection | None = None
        self.send_buffer = SendBuffer(sock)
        self._selector = selector
        selector.register(sock, selectors.EVENT_READ, lambda _, events: serve(self, events))

    def send_frame(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Send what `framing.pack` returned, now or as soon as the peer reads."""
        self.send_buffer.put(frame, fds)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now."""
        self.send_buffer.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.send_buffer else 0)
        key = self._selector.get_key(self.socket)
        if key.events != wanted:
            self._selector.modify(self.socket, wanted, key.data)

    def close(self) -> None:
        """Close the socket, and the descriptors that came or were to go."""
        self.closed = True
        self._selector.unregister(self.socket)
        self.socket.close()
        self.reader.close()
        self.send_buffer.close()


@dataclass(eq=False)
class Call:
    """A request under way. request_id: 0 if no reply is wanted.

    A handler that takes a descriptor out of the list must close it; the others are closed after the
    request.
    """

    connection: Connection
    kind: str
    request_id: int
    descriptors: list[int]
