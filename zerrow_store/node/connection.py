"""The server's end of a connection: frames in, and frames out without ever blocking for long."""

import contextlib
import selectors
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from zerrow_store.errors import ProtocolError
from zerrow_store.node import protocol

_MOST_UNSENT = 64 << 20
_SLOWEST_READER_SECONDS = 5.0


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
        self._unsent = bytearray()
        self._selector = selector
        selector.register(sock, selectors.EVENT_READ, lambda _, events: serve(self, events))

    def send(self, kind: str, request_id: int, body: Any, fds: Iterable[int] = ()) -> None:
        """Send a frame, now or as soon as the peer reads."""
        frame = protocol.pack(kind, request_id, body)
        if descriptors := list(fds):
            frame = frame[self._send_with(frame, descriptors) :]
        self._unsent += frame
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                sent = self.socket.send(self._unsent)
                del self._unsent[:sent]
        if len(self._unsent) > _MOST_UNSENT:
            raise ProtocolError("it does not read what is sent to it")
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        key = self._selector.get_key(self.socket)
        if key.events != wanted:
            self._selector.modify(self.socket, wanted, key.data)

    def close(self) -> None:
        """Close the socket and what descriptors came and were not taken."""
        self._selector.unregister(self.socket)
        self.socket.close()
        self.reader.close()

    def _send_with(self, frame: bytes, descriptors: list[int]) -> int:
        """Send the start of a frame with descriptors; returns how much of it went."""
        rights = struct.pack(f"{len(descriptors)}i", *descriptors)
        self.socket.settimeout(_SLOWEST_READER_SECONDS)
        try:
            # Descriptors go with a frame's first byte: everything before has to be out.
            self.socket.sendall(self._unsent)
            self._unsent.clear()
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            return self.socket.sendmsg([frame], control)
        except TimeoutError as error:
            raise ProtocolError("it does not read what is sent to it") from error
        finally:
            self.socket.setblocking(False)
