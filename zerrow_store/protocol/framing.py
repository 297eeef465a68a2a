"""The node store's wire protocol: frames over a Unix socket.

A frame is a header (little-endian: uint32 length of the payload, uint16 number of descriptors) and
a msgpack array [kind, request id, body]; `messages` says what bodies there are. Descriptors travel
by SCM_RIGHTS with the frame's first byte. They belong to the frame whatever its body is, so that
those of a request that is refused are not taken for the next one's. The socket has an abstract
name, so that nothing is left in any file system; both ends check the other's user.
"""

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol.sockets import CREDENTIALS

PROTOCOL_VERSION = 10
MAX_REQUEST = 200 << 20
MAX_FRAME = 1 << 30
"""Of replies and events, which may repeat a request's data up to four times."""
MAX_DESCRIPTORS = 200  # the kernel takes at most SCM_MAX_FD (253) at a time

_HEADER = struct.Struct("<IH")

_envelope = msgspec.msgpack.Decoder(tuple[str, int, msgspec.Raw])


@dataclass
class Frame:
    """What came: a request, a reply, or an event. `descriptors` are this frame's until taken."""

    kind: str
    request_id: int
    raw: msgspec.Raw
    descriptors: list[int]

    def take_descriptors(self, count: int) -> list[int]:
        """Return the frame's descriptors, which are the caller's to close then.

        Raises ProtocolError if there are not so many.
        """
        if len(self.descriptors) != count:
            raise ProtocolError(
                f"{self.kind!r} needs {count} descriptors; {len(self.descriptors)} came"
            )
        taken, self.descriptors = self.descriptors, []
        return taken

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def pack(kind: str, request_id: int, body: Any, descriptors: int = 0) -> bytes:
    """Return a frame that so many descriptors go with."""
    payload = msgspec.msgpack.encode((kind, request_id, body))
    if len(payload) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(payload):,} bytes is larger than {MAX_FRAME:,}")
    return _HEADER.pack(len(payload), descriptors) + payload


class FrameReader:
    """Cuts a stream into frames, each with the descriptors that came with it.

    most: the bytes that a frame may have. descriptors: how many may come with one.
    """

    def __init__(self, most: int = MAX_FRAME, *, descriptors: int = MAX_DESCRIPTORS) -> None:
        self.pid = 0
        """The last sender's, as the kernel knows it, if the socket passes credentials."""
        self._most = most
        self._most_descriptors = descriptors
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()

    def feed(self, connection: socket.socket) -> bool:
        """Read what is there. False at the end of the stream. May raise BlockingIOError."""
        space = socket.CMSG_SPACE(self._most_descriptors * 4) + socket.CMSG_SPACE(CREDENTIALS.size)
        data, control, flags, _ = connection.recvmsg(1 << 16, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._descriptors.extend(received)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.pid = CREDENTIALS.unpack(payload)[0]
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError("descriptors were lost: too many came, or too many files are open")
        if len(self._descriptors) > 2 * self._most_descriptors:
            raise ProtocolError("more descriptors came than frames announce")
        self._buffer += data
        return bool(data)

    def read(self, connection: socket.socket) -> Frame:
        """Return the next frame of a blocking socket. Raises OSError at the end of the stream."""
        while (frame := self.next()) is None:
            if not self.feed(connection):
                raise ConnectionResetError("the other end hung up")
        return frame

    def next(self) -> Frame | None:
        """Return the next whole frame, or None. Raises ProtocolError for what is not one."""
        if len(self._buffer) < _HEADER.size:
            return None
        length, count = _HEADER.unpack_from(self._buffer)
        if length > self._most:
            raise ProtocolError(f"a frame of {length:,} bytes is announced; at most {self._most:,}")
        if len(self._buffer) < _HEADER.size + length:
            return None
        if len(self._descriptors) < count:
            raise ProtocolError("a frame announces descriptors that did not come")
        payload = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
        del self._buffer[: _HEADER.size + length]
        try:
            kind, request_id, raw = _envelope.decode(payload)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"a frame is not msgpack of three parts: {error}") from error
        return Frame(kind, request_id, raw, [self._descriptors.popleft() for _ in range(count)])

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self._descriptors:
            os.close(self._descriptors.popleft())


def send(connection: socket.socket, frame: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a frame on a blocking socket."""
    view = memoryview(frame)
    if descriptors:
        rights = array.array("i", descriptors).tobytes()
        sent = connection.sendmsg([view], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        view = view[sent:]
    connection.sendall(view)
