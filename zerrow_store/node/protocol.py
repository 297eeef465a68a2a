"""The node store's wire protocol: frames over a Unix socket.

A frame is a little-endian uint32 length and a msgpack array [kind, request id, body]; descriptors
travel by
SCM_RIGHTS with the frame's first byte, and the body says how many belong to it. The socket has an
abstract name, so that nothing is left in any file system; both ends check the other's user.
"""

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from zerrow_store.errors import ProtocolError, StoreUnavailableError

PROTOCOL_VERSION = 3
MAX_FRAME = 256 << 20
MAX_DESCRIPTORS = 200  # the kernel takes at most SCM_MAX_FD (253) at a time

_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("3i")


def address(name: str) -> bytes:
    """Return the abstract socket address of the store `name` of this user."""
    return f"\0zerrow-{os.getuid()}-{name}".encode()


def running_stores() -> list[str]:
    """Return the names of this user's stores that listen now."""
    prefix = f"@zerrow-{os.getuid()}-"
    rows = (line.split(" ", 7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    paths = {row[7].lstrip() for row in rows if len(row) == 8}
    return sorted(path.removeprefix(prefix) for path in paths if path.startswith(prefix))


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process at the other end, as the kernel knows them."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid, uid


def connect(name: str) -> socket.socket:
    """Connect to the store `name`. Raises StoreUnavailableError if none answers, or it is not
    this user's.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address(name))
    except OSError as error:
        connection.close()
        raise StoreUnavailableError(
            f"no store named {name!r} is running ({error.strerror}); start one with `zerrow start`"
        ) from error
    if peer(connection)[1] != os.getuid():
        connection.close()
        raise StoreUnavailableError(f"the store named {name!r} belongs to another user")
    return connection


def pack(kind: str, request_id: int, body: Any) -> bytes:
    """Return a frame."""
    payload: bytes = msgpack.packb([kind, request_id, body])
    if len(payload) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(payload):,} bytes is larger than {MAX_FRAME:,}")
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a stream into frames; keeps the descriptors that came with it, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()

    def feed(self, connection: socket.socket) -> bool:
        """Read what is there. False at the end of the stream. May raise BlockingIOError."""
        data, control, flags, _ = connection.recvmsg(
            1 << 16, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._descriptors.extend(received)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError("descriptors were lost: this process has too many open files")
        if len(self._descriptors) > 2 * MAX_DESCRIPTORS:
            raise ProtocolError("more descriptors came than frames announce")
        self._buffer += data
        return bool(data)

    def next(self) -> tuple[str, int, Any] | None:
        """Return the next whole frame, or None. Raises ProtocolError for what is not one."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME:
            raise ProtocolError(f"a frame of {length:,} bytes is announced; at most {MAX_FRAME:,}")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        payload = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        try:
            kind, request_id, body = msgpack.unpackb(payload, strict_map_key=False)
        except Exception as error:
            raise ProtocolError(f"a frame is not msgpack of three parts: {error}") from error
        if not isinstance(kind, str) or not isinstance(request_id, int):
            raise ProtocolError("a frame has no kind or no request id")
        return kind, request_id, body

    def take_descriptor(self) -> int:
        """Return the next descriptor that came; it is the caller's to close."""
        if not self._descriptors:
            raise ProtocolError("a frame announces a descriptor that did not come")
        return self._descriptors.popleft()

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
