"""Connections to a store that say what a test wants them to say."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.protocol import framing, sockets

SEGMENT = b"s" * 16
HELLO = [framing.PROTOCOL_VERSION, "client", b""]


class Raw:
    """A connection of which a test sees the answers."""

    def __init__(self, name: str, *, greet: bool = True) -> None:
        self.socket = sockets.connect(name)
        self.reader = framing.FrameReader()
        if greet:
            assert self.ask("hello", HELLO)[0] == "reply"

    def ask(self, kind: str, body: Any, fds: list[int] | None = None) -> tuple[str, Any]:
        """Send a request; returns (kind, body) of what comes back, ("end", None) if it hangs up."""
        return self.raw(framing.pack(kind, 1, body, len(fds or ())), fds)

    def refused(self, kind: str, body: Any, fds: list[int] | None = None) -> bool:
        """Whether the store refuses a request, and only that: the connection goes on."""
        answer, error = self.ask(kind, body, fds)
        goes_on, _ = self.ask("stats", [])
        return (answer, goes_on) == ("error", "reply") and error[0] == "ProtocolError"

    def raw(self, data: bytes, fds: list[int] | None = None) -> tuple[str, Any]:
        try:
            framing.send(self.socket, data, fds or ())
            while (frame := self.reader.read(self.socket)).kind not in ("reply", "error"):
                frame.close()
        except OSError:
            return "end", None
        frame.close()
        return frame.kind, msgspec.msgpack.decode(frame.raw)

    def close(self) -> None:
        self.socket.close()
        self.reader.close()


class Peer:
    """A connection of which a test sees every frame."""

    def __init__(self, name: str, greet: bool = True) -> None:
        self.socket = sockets.connect(name)
        self.socket.settimeout(10)
        self.reader = framing.FrameReader()
        self.descriptors = []
        if greet:
            assert self.ask("hello", HELLO)[0] == "reply"

    def ask(self, kind, body, fds=()):
        try:
            framing.send(self.socket, framing.pack(kind, 1, body, len(fds)), fds)
        except BrokenPipeError:
            return None
        return self.answer()

    def refused(self, kind, body, fds=()):
        """Whether the store refuses a request, and only that: the connection goes on."""
        answer = self.ask(kind, body, fds)
        goes_on = self.ask("stats", [])
        return (answer[0], answer[2][0], goes_on[0]) == ("error", "ProtocolError", "reply")

    def answer(self):
        """The next frame, or None when the store hung up."""
        try:
            while (frame := self.reader.next()) is None:
                if not self.reader.feed(self.socket):
                    return None
        except ConnectionResetError:
            return None
        self.descriptors += frame.descriptors
        return frame.kind, frame.request_id, msgspec.msgpack.decode(frame.raw)

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


def memfd(size: int = 1 << 20, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@contextlib.contextmanager
def unharmed(store: Store) -> Iterator[None]:
    """Somebody else's object is there before and after, and the server is the same process."""
    client = store.connected()
    table = pa.table({"x": pc.add(pa.array(range(5000)), 1)})
    object_id = client.put(table)
    before = client.stats()
    yield
    assert client.get(object_id).equals(table)
    after = client.stats()
    assert (after.pid, after.bytes_stored) == (before.pid, before.bytes_stored)
    client.delete(object_id)
    # The view of it ends in a thread of its own: the next example is not to see it.
    wait_until(lambda: client.stats().bytes_stored == before.bytes_stored - table.nbytes)


def shared_file(mode: int) -> int:
    """Make a file that takes no seals, as those in huge pages."""
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, mode)
    os.ftruncate(fd, 1 << 20)
    os.fchmod(fd, mode)
    return fd
