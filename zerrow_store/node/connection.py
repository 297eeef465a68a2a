"""The server's end of a connection: frames in, and frames out without ever blocking."""

import selectors
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from zerrow_store.node import protocol
from zerrow_store.node.outbox import Outbox

DEFERRED = object()
"""A handler's answer that comes later."""


class Connection:
    """A client or the supervisor at the other end of a socket.

    `holds` counts this connection's views of each object; `segment` is its process's, if attached.
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
        self.pid, self.uid = protocol.peer(sock)
        self.reader = protocol.FrameReader()
        self.greeted = False
        self.holds: Counter[bytes] = Counter()
        self.segment: bytes | None = None
        self.outbox = Outbox(sock)
        self._selector = selector
        selector.register(sock, selectors.EVENT_READ, lambda _, events: serve(self, events))

    def send(self, kind: str, request_id: int, body: Any, fds: Sequence[int] = ()) -> None:
        """Send a frame, now or as soon as the peer reads."""
        self.outbox.put(protocol.pack(kind, request_id, body), fds)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now."""
        self.outbox.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outbox else 0)
        key = self._selector.get_key(self.socket)
        if key.events != wanted:
            self._selector.modify(self.socket, wanted, key.data)

    def close(self) -> None:
        """Close the socket, and the descriptors that came or were to go."""
        self._selector.unregister(self.socket)
        self.socket.close()
        self.reader.close()
        self.outbox.close()
