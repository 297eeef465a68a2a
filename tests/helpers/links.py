"""The network between two machines, and senders that answer as a test wants."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable

from tests.helpers.machines import SECURITY
from zerrow_store.errors import ProtocolError
from zerrow_store.transfer import messages
from zerrow_store.transfer.channel import Acceptor, Channel, split_location


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


Behaviour = Callable[[Channel, int], None]


def too_little(peer: Channel, size: int) -> None:
    peer.send(messages.Sending(size))
    peer._socket.sendall(bytes(size // 2))


def too_much(peer: Channel, size: int) -> None:
    peer.send(messages.Sending(size))
    peer._socket.sendall(bytes(size + 1000))
    peer.send(messages.Sent(bytes(8)))


def nothing(peer: Channel, size: int) -> None:
    threading.Event().wait(3)


def half_and_nothing(peer: Channel, size: int) -> None:
    too_little(peer, size)
    threading.Event().wait(3)


def garbage(peer: Channel, size: int) -> None:
    peer._socket.sendall(os.urandom(1000))


def wrong_bytes(peer: Channel, size: int) -> None:
    peer.send(messages.Sending(size))
    peer._socket.sendall(bytes(size))
    peer.send(messages.Sent(b"12345678"))


def no_checksum(peer: Channel, size: int) -> None:
    peer.send(messages.Sending(size))
    peer._socket.sendall(bytes(size))
    peer.send(messages.Sent(b""))


def another_size(peer: Channel, size: int) -> None:
    peer.send(messages.Sending(size - 1))


def refusal(peer: Channel, size: int) -> None:
    peer.send(messages.Refused("no"))


def wrong_order(peer: Channel, size: int) -> None:
    peer.send(messages.Sent(bytes(8)))


BEHAVIOURS = [
    too_little,
    too_much,
    nothing,
    half_and_nothing,
    garbage,
    wrong_bytes,
    no_checksum,
    another_size,
    refusal,
    wrong_order,
]
