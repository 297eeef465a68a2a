"""Messages over a stream socket.

Between the messages there are the bytes of objects. A message is framed by its length (little-
endian uint32). Between machines a signature follows it: an HMAC of its sequence number and payload
under the key of this connection and direction, truncated to 16 bytes. The bytes of objects travel
outside of messages. The kernel sends them from the segments' files and receives them where they
will be read; the message that follows them has their checksum. The checksum guards against
accidental corruption, in memory and on the way. Use TLS where an attacker could change bytes on the
way.

Nothing waits for ever: an end that sends and takes nothing for `SILENCE_SECONDS` is given up, and
so is a link that is down for that long.
"""

import contextlib
import hmac
import os
import select
import socket
import ssl
import struct
from dataclasses import dataclass

from zerrow_store.errors import ProtocolError
from zerrow_store.transfer import _streams, handshake, messages
from zerrow_store.transfer.handshake import Keys
from zerrow_store.transfer.messages import Decoder, M, Message
from zerrow_store.transfer.security import Security

SILENCE_SECONDS = 30
"""The time after which Ray, by default, declares an unresponsive machine dead."""

WORKING_SECONDS = SILENCE_SECONDS / 6
"""How often an end that is at work says so, while the other one waits for it."""

MAX_MESSAGE = 64 << 20

_LENGTH = struct.Struct("<I")
_ORDER = struct.Struct("<Q")
_TIME = struct.Struct("ll")
_SIGNATURE_BYTES = 16
_CONNECT_SECONDS = 10
_PROBES = 3
_PIECE = 256 << 10


@dataclass(frozen=True)
class Range:
    """A range of a file, given by its descriptor."""

    file: int
    offset: int
    size: int


class Channel:
    """One end of a connection. With `keys`, messages are signed.

    All methods raise OSError when the other end is gone or silent.
    """

    def __init__(self, sock: socket.socket, keys: Keys | None = None) -> None:
        self._socket = sock
        self._keys = keys
        self._sent = self._received = 0

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. First make other threads stop using it, by `cut`."""
        self._socket.close()

    def is_readable(self, seconds: float) -> bool:
        """Whether data arrives, or the other end hangs up, within so many seconds."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def cut(self) -> None:
        """End the connection. A thread that is using it gets an OSError."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, message: Message) -> None:
        """Send a message."""
        payload = messages.encode(message)
        if len(payload) > MAX_MESSAGE:
            raise ProtocolError(f"a message has at most {MAX_MESSAGE:,} bytes")
        signature = b""
        if self._keys is not None:
            signature = _sign(self._keys.own, self._sent, payload)
        self._sent += 1
        self._socket.sendall(_LENGTH.pack(len(payload)) + payload + signature)

    def receive(self, decode: Decoder[M]) -> M:
        """Return the next message. Raises ProtocolError if it is malformed or forged."""
        (length,) = _LENGTH.unpack(read(self._socket, _LENGTH.size))
        if length > MAX_MESSAGE:
            raise ProtocolError(
                f"a message of {length:,} bytes is announced; at most {MAX_MESSAGE:,}"
            )
        payload = read(self._socket, length)
        if self._keys is not None:
            expected = _sign(self._keys.others, self._received, payload)
            if not hmac.compare_digest(read(self._socket, _SIGNATURE_BYTES), expected):
                raise ProtocolError("a message is not the other end's")
        self._received += 1
        return decode(payload)

    def send_files(self, ranges: list[Range]) -> bytes:
        """Send ranges of files; returns their checksum.

        The kernel may read the files even after this has returned, until the other end has received
        everything.
        """
        # Combine small ranges into full packets.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            triples = [(each.file, each.offset, each.size) for each in ranges]
            return _streams.send(self._socket.fileno(), triples)
        finally:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def receive_into(self, targets: list[memoryview]) -> bytes:
        """Fill memory with what the other end sends; returns its checksum."""
        return _streams.receive_into(self._socket.fileno(), targets)


class TlsChannel(Channel):
    """One end of an encrypted connection. TLS has its own checksums; it has to copy the bytes."""

    _socket: ssl.SSLSocket

    def is_readable(self, seconds: float) -> bool:
        return self._socket.pending() > 0 or super().is_readable(seconds)

    def send_files(self, ranges: list[Range]) -> bytes:
        for each in ranges:
            for start in range(each.offset, each.offset + each.size, _PIECE):
                size = min(_PIECE, each.offset + each.size - start)
                piece = os.pread(each.file, size, start)
                if len(piece) != size:
                    raise OSError("a file is shorter than it was")
                self._socket.sendall(piece)
        return b""

    def receive_into(self, targets: list[memoryview]) -> bytes:
        for target in targets:
            _fill(self._socket, target)
        return b""


def connect(location: str, security: Security) -> Channel:
    """Connect to a machine's sender.

    Raises OSError if it cannot be reached, ProtocolError if it does not know the secret.
    """
    host, port = split_location(location)
    sock = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
    try:
        if security.tls is None:
            _prepare(sock)
            keys = handshake.connect(sock.sendall, lambda n: read(sock, n), security.secret)
            return Channel(sock, keys)
        sock.settimeout(SILENCE_SECONDS)
        sock = security.tls.client_context().wrap_socket(sock, server_hostname=host)
        _keep_alive(sock)
        shown = sock.getpeercert(binary_form=True) or b""
        keys = handshake.connect(sock.sendall, lambda n: read(sock, n), security.secret, shown)
        return TlsChannel(sock, keys)
    except BaseException:
        sock.close()
        raise


class Acceptor:
    """Turns accepted connections into channels. Raises OSError for unusable TLS files."""

    def __init__(self, security: Security) -> None:
        self._secret = security.secret
        self._context: ssl.SSLContext | None = None
        self._certificate = b""
        if security.tls is not None:
            self._context = security.tls.server_context()
            self._certificate = security.tls.own_certificate()

    def wrap(self, sock: socket.socket) -> socket.socket:
        """Return the socket to use instead of `sock`, of which nothing has been read yet."""
        if self._context is None:
            _prepare(sock)
            return sock
        sock.settimeout(SILENCE_SECONDS)
        _keep_alive(sock)
        return self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def greet(self, sock: socket.socket) -> Channel:
        """Return a channel to an end that proves to know the secret.

        Raises OSError (of which TLS's errors are) and ProtocolError.
        """
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        keys = handshake.accept(
            sock.sendall, lambda n: read(sock, n), self._secret, self._certificate
        )
        return Channel(sock, keys) if self._context is None else TlsChannel(sock, keys)


def is_listening(location: str) -> bool:
    """Whether a connection to this location can be opened."""
    try:
        socket.create_connection(split_location(location), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def join_location(host: str, port: int) -> str:
    """Return host:port, the host in brackets if it has colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_location(location: str) -> tuple[str, int]:
    """Return host and port of a location. Raises OSError if it is malformed."""
    host, _, port = location.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise OSError(f"{location!r} is no location of a sender")
    return host.removeprefix("[").removesuffix("]"), int(port)


def read(sock: socket.socket, size: int) -> bytes:
    """Receive exactly `size` bytes. Raises OSError at the end of the stream."""
    data = bytearray()
    while len(data) < size:  # memory grows only with what has arrived
        try:
            piece = sock.recv(min(size - len(data), _PIECE))
        except BlockingIOError:
            raise TimeoutError("timed out: the other end says nothing") from None
        if not piece:
            raise ConnectionResetError("the other end hung up")
        data += piece
    return bytes(data)


def _fill(sock: socket.socket, target: memoryview) -> None:
    filled = 0
    while filled < len(target):
        count = sock.recv_into(target[filled:])
        if not count:
            raise ConnectionResetError("the other end hung up")
        filled += count


def _prepare(sock: socket.socket) -> None:
    """Make the socket blocking, with the kernel's timeouts: sendfile and recv then need no poll."""
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, _TIME.pack(SILENCE_SECONDS, 0))
    _keep_alive(sock)


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice that the other machine, or the link to it, is gone."""
    interval = max(1, SILENCE_SECONDS // _PROBES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _sign(key: bytes, order: int, payload: bytes) -> bytes:
    return hmac.digest(key, _ORDER.pack(order) + payload, "sha256")[:_SIGNATURE_BYTES]
