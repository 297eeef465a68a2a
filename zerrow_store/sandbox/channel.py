"""Frames between the host and a sandbox, over a Unix socket pair, with descriptors.

A frame is a little-endian uint32 length and as many bytes. What comes from a sandbox is hostile:
the receiver says how long a frame and how many descriptors it takes, and what is beyond is refused
unread. Parsing what is inside is up to the layers above.
"""

import array
import os
import socket
import struct
from collections.abc import Sequence

from zerrow_store.errors import ProtocolError

_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("3i")
MAX_DESCRIPTORS = 200  # the kernel takes at most SCM_MAX_FD (253) at a time


def send(connection: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a frame, and wait until the peer has taken it."""
    view = memoryview(_LENGTH.pack(len(payload)) + payload)
    if descriptors:
        rights = array.array("i", descriptors).tobytes()
        sent = connection.sendmsg([view], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        view = view[sent:]
    connection.sendall(view)


class Receiver:
    """Takes frames of at most `longest` bytes, with at most `descriptors` waiting to be taken."""

    def __init__(self, connection: socket.socket, *, longest: int, descriptors: int) -> None:
        self.pid = 0
        """The sender's pid, if the socket passes credentials (SO_PASSCRED): the kernel says it."""
        self._connection = connection
        self._longest = longest
        self._most = descriptors
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def read(self) -> bytes | None:
        """Read what is there, or wait for it; return a frame once it is whole.

        Raises EOFError at the end of the stream, ProtocolError for what is not allowed, OSError.
        """
        if (frame := self._cut()) is not None:
            return frame
        space = socket.CMSG_SPACE((self._most + 1) * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        data, control, flags, _ = self._connection.recvmsg(1 << 18, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, body in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(body[: len(body) - len(body) % received.itemsize])
                self._descriptors.extend(received)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.pid = _CREDENTIALS.unpack(body)[0]
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > self._most:
            raise ProtocolError("more descriptors came than are allowed here")
        if not data:
            raise EOFError
        self._buffer += data
        return self._cut()

    def wait(self) -> bytes:
        """Return the next frame."""
        while (frame := self.read()) is None:
            pass
        return frame

    def _cut(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > self._longest:
            raise ProtocolError(f"a frame of {length:,} bytes; at most {self._longest:,} are taken")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        frame = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        return frame

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came so far; they are the caller's to close."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close(self) -> None:
        """Close the socket, and descriptors that nobody took."""
        for fd in self.take_descriptors():
            os.close(fd)
        self._connection.close()
