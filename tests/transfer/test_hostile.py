"""What a peer may send, with the secret and without: the others get what they ask for."""

import os
import random
import socket
import struct
import threading

import msgspec
import pytest

from tests.helpers.arena import pinned
from tests.helpers.data import MIB, table_of
from tests.helpers.links import BEHAVIOURS, Link
from tests.helpers.machines import SECURITY, receiver_of
from tests.helpers.processes import descriptors
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectLostError, ProtocolError
from zerrow_store.transfer import channel, handshake, messages
from zerrow_store.transfer.channel import Channel, connect, split_location
from zerrow_store.transfer.security import Security

SEGMENT = b"s" * 16


@pytest.fixture
def bystander(there, here):
    """Somebody who gets what they ask for, before and after; returns (location, object)."""
    wanted = there.publish(table_of(MIB))
    location = there.serve()
    assert here.fetch(location, wanted).equals(table_of(MIB))
    wait_until(here.is_empty)
    yield location, wanted
    assert here.fetch(location, wanted).equals(table_of(MIB))
    wait_until(lambda: there.connected().list()[0].holds == 0)


def dial(location: str) -> socket.socket:
    return socket.create_connection(split_location(location), timeout=20)


def is_hung_up(sock: socket.socket) -> bool:
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


# --- without the secret ---


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 200, b"GET / HTTP/1.1\r\n\r\n" * 10, b"\0" * 200, b"zerrow transfer\x09" * 20],
    ids=["ones", "http", "zeros", "version"],
)
def test_garbage_ends_the_connection(bystander, data):
    with dial(bystander[0]) as sock:
        sock.sendall(data)
        assert is_hung_up(sock)


@pytest.mark.parametrize("secret", [b"another cluster's secret", b"\0" * 32])
def test_who_has_another_secret_gets_nothing(bystander, secret):
    with pytest.raises(ProtocolError, match="secret"):
        connect(bystander[0], Security(secret=secret))


def test_a_secret_is_no_empty_string():
    with pytest.raises(ProtocolError, match="secret"):
        Security(secret=b"")


def test_a_proof_cannot_be_replayed(bystander):
    """What an honest peer has said is worth nothing on another connection."""
    location, wanted = bystander
    said: list[bytes] = []
    with dial(location) as sock:

        def write(data: bytes) -> None:
            said.append(data)
            sock.sendall(data)

        keys = handshake.connect(write, lambda n: channel.read(sock, n), SECURITY.secret)
        with Channel(_Tee(sock, said), keys) as honest:
            honest.send(messages.Read(wanted.object_id, pieces(wanted)))
            assert isinstance(honest.receive(messages.ANSWER), messages.Sending)
    with dial(location) as sock:
        for data in said:
            sock.sendall(data)
        greeting = channel.read(sock, 64)
        assert len(greeting) == 64
        assert is_hung_up(sock)


class _Tee:
    """A socket whose other end's reader is told what is sent."""

    def __init__(self, sock: socket.socket, said: list[bytes]) -> None:
        self._socket = sock
        self._said = said

    def __getattr__(self, name: str):
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        self._said.append(data)
        self._socket.sendall(data)


def test_a_proof_is_not_the_other_ends(bystander):
    """Who listens has proved first: that proof, sent back, proves nothing."""
    with dial(bystander[0]) as sock:
        sock.sendall(handshake._MAGIC + bytes(32))
        sock.sendall(channel.read(sock, 64)[32:])
        assert is_hung_up(sock)


def test_a_connection_cannot_be_taken_over(there, bystander, link):
    """Who stands between two that know the secret can change no request."""

    def change(piece: bytes) -> bytes:
        return piece.replace(b"refused", b"sending")

    way = link(bystander[0], change=change)
    with connect(way.location, SECURITY) as peer:
        peer.send(messages.Read(b"unknown", []))
        with pytest.raises(ProtocolError, match="not the other end's"):
            peer.receive(messages.ANSWER)


def test_strangers_who_say_nothing_keep_nobody_out(there, here, bystander):
    location, wanted = bystander
    before = descriptors(there.agent())
    strangers = [dial(location) for _ in range(100)]
    assert here.fetch(location, wanted).equals(table_of(MIB))
    assert descriptors(there.agent()) < before + 50
    for stranger in strangers:
        stranger.close()
    wait_until(lambda: descriptors(there.agent()) <= before)


# --- with the secret ---


def pieces(wanted) -> list[messages.Piece]:
    return [(s, o, size, 0, size) for s, o, size in wanted.allocations]


@pytest.fixture
def peer(bystander):
    with connect(bystander[0], SECURITY) as connected:
        yield connected


def test_only_an_objects_own_allocations_are_sent(there, bystander, peer):
    _, wanted = bystander
    other = there.publish(table_of(MIB, 1))
    ((segment, offset, size),) = wanted.allocations
    for object_id, piece in [
        (other.object_id, (segment, offset, size, 0, size)),
        (wanted.object_id, (segment, offset + 64, size - 64, 0, size - 64)),
        (wanted.object_id, (segment, offset, size + 64, 0, size)),
        (wanted.object_id, (segment, offset, size, 1, size)),
        (wanted.object_id, (segment, offset, size, size + 1, 0)),
        (wanted.object_id, (SEGMENT, offset, size, 0, size)),
        (b"unknown", (segment, offset, size, 0, size)),
    ]:
        peer.send(messages.Read(object_id, [piece]))
        assert isinstance(peer.receive(messages.ANSWER), messages.Refused), piece
    peer.send(messages.Read(wanted.object_id, [(segment, offset, size, size, 0)]))
    assert peer.receive(messages.ANSWER) == messages.Sending(0)
    there.connected().delete(other.object_id)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(["read"]),
        msgspec.msgpack.encode(["king", b"x", []]),
        msgspec.msgpack.encode(["read", b"x", [[SEGMENT, -1, 0, 0, 0]]]),
        msgspec.msgpack.encode(["read", b"x", [[SEGMENT, 1 << 63, 0, 0, 0]]]),
        msgspec.msgpack.encode(["read", b"x", [[b"short", 0, 0, 0, 0]]]),
        msgspec.msgpack.encode(["read", b"x" * 2000, []]),
        b"\x91" * 5000,
    ],
)
def test_what_is_malformed_ends_the_connection(peer, payload):
    assert peer._keys is not None
    signature = channel._sign(peer._keys.own, 0, payload)
    peer._socket.sendall(struct.pack("<I", len(payload)) + payload + signature)
    with pytest.raises(OSError, match=r"hung up|reset"):
        peer.receive(messages.ANSWER)


def test_a_message_that_is_too_large_ends_the_connection(peer):
    peer._socket.sendall(struct.pack("<I", channel.MAX_MESSAGE + 1))
    with pytest.raises(OSError, match=r"hung up|reset"):
        peer.receive(messages.ANSWER)


def test_a_peer_that_takes_nothing_is_given_up(there, here, bystander):
    """It keeps neither the object nor a thread for ever; here, until it goes."""
    big = there.publish(table_of(64 * MIB))
    with connect(bystander[0], SECURITY) as peer:
        peer.send(messages.Read(big.object_id, pieces(big)))
        assert isinstance(peer.receive(messages.ANSWER), messages.Sending)
    there.connected().delete(big.object_id)
    wait_until(lambda: len(there.connected().list()) == 1)
    wait_until(lambda: there.connected().stats().bytes_stored < 2 * MIB)


def test_any_requests(there, here, bystander):
    """Well-formed ones, mutated ones and noise, from peers that know the secret."""
    location, wanted = bystander
    seed = int(os.environ.get("ZERROW_FUZZ_SEED", "7"))
    chance = random.Random(seed)
    whole = messages.encode(messages.Read(wanted.object_id, pieces(wanted)))
    agent = there.agent()
    for _ in range(300):
        payload = bytearray(whole)
        for _ in range(chance.choice([0, 1, 1, 2, 8])):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        if chance.random() < 0.2:
            del payload[chance.randrange(len(payload)) :]
        if chance.random() < 0.1:
            payload = bytearray(chance.randbytes(chance.randrange(200)))
        with connect(location, SECURITY) as peer:
            assert peer._keys is not None
            signed = channel._sign(peer._keys.own, 0, bytes(payload))
            peer._socket.sendall(struct.pack("<I", len(payload)) + payload + signed)
            try:
                answer = peer.receive(messages.ANSWER)
            except OSError:
                continue
            assert isinstance(answer, messages.Sending | messages.Refused)
            if isinstance(answer, messages.Sending):
                assert answer.nbytes <= MIB
    assert there.agent() == agent


# --- a sender that lies ---


@pytest.mark.parametrize("behave", BEHAVIOURS, ids=lambda behave: behave.__name__)
@pytest.mark.parametrize("size", [MIB, 40 * MIB], ids=["one connection", "several"])
def test_a_sender_that_lies_does_no_harm(here, liar, monkeypatch, behave, size):
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 1)
    receiver = receiver_of(here)
    before = pinned()
    with pytest.raises(ObjectLostError):
        receiver.fetch(liar(behave).location, b"wanted", [(SEGMENT, 0, size)])
    wait_until(here.is_empty)
    wait_until(lambda: pinned() == before)


def test_bytes_that_change_on_the_way_are_noticed(there, here, link):
    wanted = there.publish(table_of(24 * MIB))
    done = threading.Event()

    def change(piece: bytes) -> bytes:
        if len(piece) > 10_000 and not done.is_set():
            done.set()
            return piece[:5000] + bytes([piece[5000] ^ 1]) + piece[5001:]
        return piece

    way: Link = link(change=change)
    with pytest.raises(ObjectLostError, match="not what was sent"):
        here.fetch(way.location, wanted)
    wait_until(here.is_empty)
    assert here.fetch(way.location, wanted).equals(table_of(24 * MIB))
