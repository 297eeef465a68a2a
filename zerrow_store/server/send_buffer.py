"""The send buffer: what a peer has not taken yet.

Descriptors travel with a frame's first byte, so a frame that has some starts a chunk of its own.
They are duplicated: whoever queued them may close theirs. A peer that leaves more than `limit`
bytes unread is not waited for.
"""

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence

from zerrow_store.errors import ProtocolError

MOST_UNSENT = 64 << 20
_MOST_DESCRIPTORS = 1024


class SendBuffer:
    """See the module. `limit` is in bytes; a single frame may be larger."""

    def __init__(self, sock: socket.socket) -> None:
        self.limit = MOST_UNSENT
        self._socket = sock
        self._chunks: deque[tuple[bytearray, list[int]]] = deque()
        self.unsent = 0
        self._descriptors = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def put(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Queue a frame. Raises ProtocolError if the peer has left too much unread."""
        if self.unsent > self.limit or self._descriptors > _MOST_DESCRIPTORS:
            raise ProtocolError("the peer does not read: too much is unsent")
        if descriptors or not self._chunks:
            self._chunks.append((bytearray(frame), self._duplicates(descriptors)))
        else:
            self._chunks[-1][0].extend(frame)
        self.unsent += len(frame)

    def flush(self) -> None:
        """Send what the socket takes now. Raises OSError if the peer is gone."""
        with contextlib.suppress(BlockingIOError):
            while self._chunks:
                data, descriptors = self._chunks[0]
                rights = array.array("i", descriptors)
                control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
                sent = self._socket.sendmsg([memoryview(data)[: 1 << 20]], control)
                self._close(descriptors)
                del data[:sent]
                self.unsent -= sent
                if not data:
                    self._chunks.popleft()

    def close(self) -> None:
        """Forget what was not sent."""
        for _, descriptors in self._chunks:
            self._close(descriptors)
        self._chunks.clear()

    def _duplicates(self, descriptors: Sequence[int]) -> list[int]:
        duplicates: list[int] = []
        try:
            for fd in descriptors:
                duplicates.append(os.dup(fd))
                self._descriptors += 1
        except OSError:
            self._close(duplicates)
            raise
        return duplicates

    def _close(self, descriptors: list[int]) -> None:
        self._descriptors -= len(descriptors)
        while descriptors:
            os.close(descriptors.pop())
