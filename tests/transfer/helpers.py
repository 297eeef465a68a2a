"""What the transfer tests share: machines, objects on their way, and a link that can fail."""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tests.node.helpers import Store, processes, wait_until
from zerrow_store.client.client import Allocations, Client
from zerrow_store.client.holds import Hold
from zerrow_store.errors import ProtocolError
from zerrow_store.native import _native
from zerrow_store.transfer import local, messages
from zerrow_store.transfer.channel import Acceptor, Channel, split_location
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.neighbours import Neighbours
from zerrow_store.transfer.receiver import Receiver
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.segment_files import FileClient

SECURITY = Security(secret=b"what the machines of a test know")

MIB = 1 << 20

C = TypeVar("C", bound=Client)


@dataclass(frozen=True)
class Object:
    """A published table, as its message has it."""

    object_id: bytes
    message: bytes
    allocations: Allocations


class Machine(Store):
    """A store that stands for a machine's, with its transfer agent."""

    def __init__(self, security: Security = SECURITY, *, budget: int = 1 << 30) -> None:
        super().__init__(f"test-{uuid.uuid4().hex[:12]}", budget=budget)
        self.security = security

    def serve(self) -> str:
        return local.serve(self.name, self.security, "127.0.0.1")

    def publish(self, table: pa.Table) -> Object:
        encoded = _native.encode(table)
        object_id = os.urandom(16)
        self.connected().publish(object_id, encoded)
        return Object(object_id, encoded.message, _native.message_allocations(encoded.message))

    def fetch(self, location: str, wanted: Object) -> pa.Table:
        """Return a table of another machine; it is held here as long as it is referred to."""
        return decoded(wanted, *self.land(location, wanted))

    def land(self, location: str, wanted: Object) -> tuple[list[tuple[bytes, int]], Hold]:
        return local.fetch(
            self.connected(), self.security, location, wanted.object_id, wanted.allocations
        )

    def agents(self) -> list[int]:
        """The pids of its transfer agents."""
        return processes("zerrow_store.transfer.agent", self.name)

    def agent(self) -> int:
        (pid,) = self.agents()
        return pid

    def is_empty(self) -> bool:
        """Whether nothing is stored, in part or whole."""
        stats = self.connected().stats()
        return stats.objects == 0 and stats.bytes_stored == 0

    def stop(self) -> None:
        super().stop()
        wait_until(lambda: not self.agents())


def decoded(wanted: Object, places: list[tuple[bytes, int]], hold: Hold) -> pa.Table:
    return _native.decode(wanted.message, hold, places)


def table(nbytes: int, start: int = 0) -> pa.Table:
    """A table of one column of so many bytes, no two words the same."""
    return pa.table({"x": pc.add(pa.array(range(nbytes // 8), pa.int64()), start)})


def open_client(machine: Machine, cls: Callable[[str], C]) -> C:
    """Connect this process as an agent is."""
    machine.connected()
    client = cls(machine.name)
    machine._clients.append(client)
    return client


def receiver_of(machine: Machine) -> Receiver:
    """A receiver in this process, which lands objects in a machine's store."""
    client = open_client(machine, FileClient)
    return Receiver(client, SECURITY, Neighbours(client, SECURITY, Followers(client)))


class Link:
    """A proxy in front of a sender: the network between two machines, as a test wants it.

    It forwards what comes from the sender up to `limit` bytes (None: all), then nothing until the
    limit is raised. change: applied to what is forwarded, a piece at a time.
    """

    def __init__(
        self,
        location: str,
        *,
        limit: int | None = None,
        change: Callable[[bytes], bytes] = lambda piece: piece,
    ) -> None:
        self._target = split_location(location)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._change = change
        self._limit = limit
        self._condition = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self.forwarded = 0
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def set_limit(self, limit: int | None) -> None:
        with self._condition:
            self._limit = limit
            self._condition.notify_all()

    def is_stuck(self) -> bool:
        """Whether all that may be forwarded was."""
        return self._limit is not None and self.forwarded >= self._limit

    def cut(self) -> None:
        """End all connections."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.set_limit(None)
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            self._start(self._join, near, far)

    def _connect(self) -> socket.socket:
        far = socket.socket()
        try:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            far.connect(self._target)
        except OSError:
            far.close()
            raise
        return far

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        there = threading.Thread(target=self._forward, args=[near, far, False])
        there.start()
        self._forward(far, near, True)
        there.join()
        for sock in (near, far):
            sock.close()  # whoever still sends sees that nobody reads

    def _forward(self, source: socket.socket, target: socket.socket, limited: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if not limited:
                    target.sendall(piece)
                    continue
                piece = self._change(piece)
                while piece:
                    with self._condition:
                        self._condition.wait_for(lambda: not self.is_stuck())
                        most = len(piece) if self._limit is None else self._limit - self.forwarded
                        part, piece = piece[:most], piece[most:]
                        self.forwarded += len(part)
                    target.sendall(part)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def read_here(peer: Channel) -> None:
    """Answer who seeks an object as one that has no copies."""
    peer.send(messages.At(""))
    peer.receive(messages.SOUGHT)


class Liar:
    """A sender that knows the secret. behave: what it does with a connection over which so many
    bytes are read; told: with one over which an object is sought.
    """

    def __init__(
        self,
        behave: Callable[[Channel, int], None],
        told: Callable[[Channel], None] = read_here,
    ) -> None:
        self._behave = behave
        self._told = told
        self._acceptor = Acceptor(SECURITY)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock = self._acceptor.wrap(self._listener.accept()[0])
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=[sock]))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, ProtocolError):
            peer = self._acceptor.greet(sock)
            request = peer.receive(messages.REQUEST)
            if isinstance(request, messages.Seek):
                self._told(peer)
            elif isinstance(request, messages.Read):
                self.asked += 1
                self._behave(peer, sum(length for *_, length in request.pieces))
