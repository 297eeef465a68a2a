"""The sockets of a store: abstract ones, so that nothing is left in any file system."""

import os
import socket
import struct
from pathlib import Path

from zerrow_store.errors import StoreUnavailableError

CREDENTIALS = struct.Struct("3i")
_BACKLOG = 512


def address(name: str) -> bytes:
    """Return the abstract socket address of the store `name` of this user."""
    return f"\0zerrow-{os.getuid()}-{name}".encode()


def transfer_address(store: str) -> bytes:
    """Return the abstract socket address of the companion of this user's store."""
    return f"\0zerrow-transfer-{os.getuid()}-{store}".encode()


def running_stores() -> list[str]:
    """Return the names of this user's stores that listen now."""
    prefix = f"@zerrow-{os.getuid()}-"
    rows = (line.split(" ", 7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    paths = {row[7].lstrip() for row in rows if len(row) == 8}
    return sorted(path.removeprefix(prefix) for path in paths if path.startswith(prefix))


def listen(name: str) -> socket.socket:
    """Return the socket on which the store `name` is reached. Raises OSError if there is one."""
    listener = _bind(address(name))
    listener.listen(_BACKLOG)
    return listener


def claim(name: str) -> socket.socket:
    """Bind the name of the server of the store `name`: whoever has this socket is the server.

    Several processes may have the listener. A supervisor claims the name for the server that it
    starts.
    Raises OSError if there is a server, or one is being started.
    """
    return _bind(f"\0zerrow-server-{os.getuid()}-{name}".encode())


def _bind(to: bytes) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(to)
    except OSError:
        bound.close()
        raise
    return bound


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process at the other end, as the kernel knows them."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(packed)
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
