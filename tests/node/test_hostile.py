"""What a peer may send: the store lives, and everybody else's data is unharmed."""

import contextlib
import fcntl
import mmap
import os
import random
import socket
import struct

import msgpack
import psutil
import pytest

from tests.helpers.data import table
from tests.helpers.peers import HELLO, Peer, memfd
from zerrow_store.errors import ProtocolError
from zerrow_store.native import _native
from zerrow_store.protocol import framing

REQUESTS = [
    "hello",
    "attach",
    "put",
    "get",
    "hold",
    "release",
    "segments",
    "delete",
    "list",
    "stats",
]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack("<IH", 0xFFFFFFFF, 0),
        struct.pack("<IH", 5, 0) + b"\xc1" * 5,
        struct.pack("<IH", 1, 0) + b"\x01",
        framing.pack("list", 1, []),
        framing.pack("hello", 1, HELLO, 1),
    ],
    ids=["ones", "huge", "not msgpack", "no array", "no hello", "no descriptor"],
)
def test_garbage_ends_the_connection(name, bystander, data):
    raw = Peer(name, greet=False)
    raw.socket.sendall(data)
    assert raw.answer() is None
    raw.close()


@pytest.mark.parametrize(
    "body", [[99, "client", b""], "x", [], [framing.PROTOCOL_VERSION, "king", b""]], ids=str
)
def test_a_hello_that_is_refused_is_not_heard(name, bystander, body):
    raw = Peer(name, greet=False)
    assert raw.ask("hello", body)[0] == "error"
    assert raw.ask("stats", []) is None
    raw.close()


def test_a_frame_that_never_ends_keeps_nobody_waiting(name, bystander):
    raw = Peer(name)
    raw.socket.sendall(struct.pack("<I", 1000) + b"half")
    assert bystander.stats().objects == 1
    raw.close()


def test_random_requests(name, bystander):
    seed = random.randrange(2**32)
    rng = random.Random(seed)

    def value(depth=0):
        choices = [
            lambda: rng.randrange(-(2**63), 2**63),
            lambda: rng.randbytes(rng.choice([0, 1, 8, 16, 28, 160])),
            lambda: "x" * rng.randrange(4),
            lambda: None,
            lambda: rng.random(),
            lambda: rng.choice([True, False]),
        ]
        if depth < 3:
            choices += [lambda: [value(depth + 1) for _ in range(rng.randrange(8))]] * 3
        return rng.choice(choices)()

    for _ in range(400):
        raw = Peer(name)
        for _ in range(4):
            body = [value() for _ in range(rng.randrange(9))]
            try:
                framing.send(raw.socket, framing.pack(rng.choice(REQUESTS), 1, body))
            except (OSError, OverflowError):
                break
        raw.close()
    assert bystander.stats().objects >= 1, f"seed {seed}"
    # What a random put may have entered goes again: only well-formed ids can have got in.
    for info in bystander.list():
        if info.nbytes == 0:
            bystander.delete(info.object_id)


def test_random_bytes(name, bystander):
    rng = random.Random(0)
    for _ in range(200):
        raw = Peer(name, greet=rng.random() < 0.5)
        with contextlib.suppress(OSError):
            raw.socket.sendall(rng.randbytes(rng.randrange(1, 5000)))
        raw.close()
    assert bystander.stats().objects == 1


@pytest.mark.parametrize("what", ["unsealed", "size", "pipe", "file", "none", "id"])
def test_segments_that_are_none(peer, tmp_path, what):
    size, segment_id = 1 << 20, os.urandom(16)
    if what == "unsealed":
        fds = [memfd(size, fcntl.F_SEAL_GROW)]
    elif what == "size":
        fds = [memfd(size // 2)]
    elif what == "pipe":
        reading, writing = os.pipe()
        os.close(writing)
        fds = [reading]
    elif what == "file":
        path = tmp_path / "file"
        path.write_bytes(bytes(size))
        fds = [os.open(path, os.O_RDWR)]
    elif what == "id":
        fds, segment_id = [memfd(size)], b"short"
    else:
        fds = []
    assert peer.refused("attach", [segment_id, size], fds)
    for fd in fds:
        os.close(fd)


def attached(peer: Peer, size: int = 1 << 20) -> bytes:
    segment_id = os.urandom(16)
    fd = memfd(size)
    assert peer.ask("attach", [segment_id, size], [fd])[0] == "reply"
    os.close(fd)
    return segment_id


def test_allocations_outside_of_the_segment(peer):
    attached(peer)
    own = struct.pack("<QQ", (1 << 20) - 8, 16)
    assert peer.refused("put", [b"bad", own, [], None, False, False, [0, 0, 0]])


def test_allocations_without_a_segment(peer):
    own = struct.pack("<QQ", 0, 16)
    assert peer.refused("put", [b"bad", own, [], None, False, False, [0, 0, 0]])


def test_foreign_allocations_that_nobody_published(peer, bystander):
    mine, _, _ = _native.arena_segment()
    for segment_id in (os.urandom(16), mine):
        foreign = [[segment_id, struct.pack("<QQ", 12345 * 64, 16)]]
        kind, _, error = peer.ask("put", [b"bad", b"", foreign, None, False, False, [0, 0, 0]])
        assert (kind, error[0]) == ("error", "ObjectLostError")


def test_releasing_what_is_not_held(peer, bystander):
    (info,) = bystander.list()
    view = bystander.get(info.object_id)
    assert peer.refused("release", [[info.object_id]])
    assert view.equals(table())


def test_another_processes_segment_cannot_be_taken_over(name, bystander):
    segment_id, _, size = _native.arena_segment()
    child = os.fork()
    if child == 0:
        refused = Peer(name).refused("attach", [segment_id, size], [memfd(size)])
        os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_descriptors_that_are_given_out_are_read_only(peer, bystander):
    mine, _, _ = _native.arena_segment()
    kind, _, body = peer.ask("segments", [[mine]])
    assert kind == "reply"
    (fd,) = peer.descriptors
    size = body[0][0]
    with pytest.raises(PermissionError):
        mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError, match=r"Invalid argument|not permitted"):
        os.ftruncate(fd, size // 2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    os.close(fd)


def test_counts_without_end(peer, bystander):
    """The sum would pass 64 bits, which no answer could carry."""
    count = framing.pack("count", 1, ["transfers", {"sent_bytes": 1 << 50}])
    for _ in range(200):
        peer.socket.sendall(count * 100)
    assert peer.ask("stats", [])[0] == "reply"
    assert bystander.stats().transfers.sent_bytes == (1 << 63) - 1


def test_figures_that_nobody_knows_are_not_kept(peer, bystander):
    server = psutil.Process(bystander.stats().pid)
    before = server.memory_info().rss
    for number in range(100):
        names = {f"{number * 10_000 + i:064}": 1 for i in range(10_000)}
        peer.socket.sendall(framing.pack("count", 1, ["sandbox", names]))
    assert peer.ask("stats", [])[0] == "reply"
    assert server.memory_info().rss < before + (32 << 20)


def test_one_who_does_not_read_is_dropped_not_waited_for(name, bystander):
    raw = Peer(name)
    for _ in range(2000):
        try:
            raw.socket.settimeout(0.2)
            raw.socket.sendall(framing.pack("list", 1, []))
        except OSError:
            break
    assert bystander.stats().objects == 1
    raw.close()


def test_lost_descriptors_and_long_frames_are_errors():
    ours, theirs = socket.socketpair()
    ours.sendall(framing.pack("x", 1, [], 1))
    with pytest.raises(ProtocolError, match="did not come"):
        framing.FrameReader().read(theirs)
    ours.close()
    theirs.close()
    with pytest.raises(ProtocolError, match="larger than"):
        framing.pack("x", 1, bytes(framing.MAX_FRAME + 1))
    assert msgpack.unpackb(framing.pack("x", 1, None)[6:]) == ["x", 1, None]
