"""Garbage on the socket ends that connection; everyone else is unharmed."""

import array
import contextlib
import os
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.peers import SEGMENT, Raw, memfd, shared_file, unharmed
from tests.helpers.processes import descriptors
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ProtocolError
from zerrow_store.protocol import events, framing, sockets
from zerrow_store.protocol.fields import Counters
from zerrow_store.server.object_table import ObjectTable

KINDS = ["hello", "attach", "put", "get", "hold", "release", "segments", "delete", "list", "stats"]


@pytest.fixture
def raw(store: Store) -> Iterator[Raw]:
    made = Raw(store.name)
    yield made
    made.close()


_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
_RELAXED = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_RELAXED
@given(kind=st.sampled_from(KINDS) | st.text(max_size=8), body=_JUNK, attached=st.booleans())
def test_well_formed_nonsense(store: Store, kind: str, body: Any, attached: bool) -> None:
    with unharmed(store):
        raw = Raw(store.name)
        if attached:
            fd = memfd()
            raw.ask("attach", [SEGMENT, 1 << 20], [fd])
            os.close(fd)
        raw.ask(kind, body)
        raw.close()


@_RELAXED
@given(
    own=st.binary(max_size=64) | st.just(struct.pack("<2Q", 0, 4096)),
    foreign=st.lists(st.tuples(st.sampled_from([SEGMENT, b"x"]), st.binary(max_size=32))) | _JUNK,
    counters=st.lists(st.integers(-(1 << 63), (1 << 64) - 1), max_size=4) | _JUNK,
    message=st.none() | st.binary(max_size=4),
)
def test_puts_of_nonsense(
    store: Store, own: bytes, foreign: Any, counters: Any, message: bytes | None
) -> None:
    with unharmed(store):
        raw = Raw(store.name)
        fd = memfd()
        assert raw.ask("attach", [SEGMENT, 1 << 20], [fd])[0] == "reply"
        os.close(fd)
        body = [b"junk", own, foreign, message, False, False, counters]
        if raw.ask("put", body)[0] == "reply":
            assert raw.ask("delete", [[b"junk"], False])[0] == "reply"
        raw.close()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IH", framing.MAX_REQUEST + 1, 0),
        struct.pack("<IH", 1, 0) + b"\xc1",
        struct.pack("<IH", 0, 0),
        struct.pack("<IH", 1, 0) + msgpack.packb(7),
        struct.pack("<IH", 200_000, 0) + b"\x91" * 200_000,
    ],
    ids=["too-large", "not-msgpack", "empty", "not-a-list", "nested-too-deep"],
)
def test_a_broken_frame_ends_the_connection(store: Store, raw: Raw, data: bytes) -> None:
    with unharmed(store):
        assert raw.raw(data)[0] == "end"


def test_a_hello_comes_first_and_names_the_version(store: Store) -> None:
    early, old = Raw(store.name, greet=False), Raw(store.name, greet=False)
    assert early.ask("stats", [])[0] == "end"
    assert old.ask("hello", [framing.PROTOCOL_VERSION + 1, "client", b""])[0] == "error"
    assert old.ask("stats", [])[0] == "end"
    early.close()
    old.close()


def test_only_proper_shared_memory_is_a_segment(store: Store, tmp_path: Any) -> None:
    unsealed, sealed, writable = memfd(seals=0), memfd(), shared_file(0o600)
    named = os.open(path := f"/dev/shm/zerrow-{os.urandom(8).hex()}", os.O_RDWR | os.O_CREAT, 0o400)
    os.ftruncate(named, 1 << 20)
    on_disk = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o400)
    os.ftruncate(on_disk, 1 << 20)
    plain = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(plain, 1 << 20)
    pipe, other_end = os.pipe()
    attempts: list[tuple[list[Any], list[int]]] = [
        ([SEGMENT, 1 << 20], []),
        ([SEGMENT, 1 << 20], [unsealed]),
        ([SEGMENT, 1 << 20], [plain]),
        ([SEGMENT, 1 << 20], [writable]),
        ([SEGMENT, 1 << 20], [named]),
        ([SEGMENT, 1 << 20], [on_disk]),
        ([SEGMENT, 1 << 20], [pipe]),
        ([SEGMENT, 1 << 21], [sealed]),
        ([SEGMENT, float(1 << 20)], [sealed]),
        ([b"short", 1 << 20], [sealed]),
    ]
    with unharmed(store):
        for body, fds in attempts:
            raw = Raw(store.name)
            assert raw.refused("attach", body, fds), body
            raw.close()
    os.unlink(path)
    for fd in (unsealed, sealed, writable, named, on_disk, plain, pipe, other_end):
        os.close(fd)


def test_a_producer_that_truncates_its_file_does_not_end_the_store(store: Store) -> None:
    raw, fd = Raw(store.name), shared_file(0o400)
    assert raw.ask("attach", [SEGMENT, 1 << 20], [fd])[0] == "reply"
    own = struct.pack("<2Q", 0, 1 << 20)
    assert raw.ask("put", [b"cut", own, [], None, False, False, [0, 0, 0]])[0] == "reply"
    with unharmed(store):
        os.ftruncate(fd, 0)
    assert raw.ask("delete", [[b"cut"], False])[0] == "reply"
    raw.close()
    os.close(fd)


def test_counters_stay_countable(store: Store, raw: Raw) -> None:
    with unharmed(store):
        for i in range(3):
            raw.ask("put", [b"%d" % i, b"", [], None, False, False, [(1 << 63), 0, 0]])
        assert store.connected().stats().bytes_shared >= 0


def test_descriptors_nobody_asked_for_do_not_pile_up(store: Store) -> None:
    client = store.connected()
    client.stats()
    wait_until(store.is_complete)
    before = descriptors(store.server_pid())
    raw = Raw(store.name)
    null = os.open(os.devnull, os.O_RDONLY)
    stats = framing.pack("stats", 1, [])
    for _ in range(20):
        if raw.raw(stats, [null] * framing.MAX_DESCRIPTORS)[0] == "end":
            break
    # It hangs up first, and closes them then.
    most = before + 1 + 2 * framing.MAX_DESCRIPTORS
    wait_until(lambda: descriptors(store.server_pid()) <= most)
    raw.close()
    os.close(null)
    wait_until(lambda: descriptors(store.server_pid()) == before)


def test_who_does_not_read_neither_stops_nor_fills_the_store(store: Store) -> None:
    client = store.connected()
    object_id = client.put(pa.table({"x": pc.add(pa.array(range(5000)), 1)}))
    lazy = Raw(store.name)
    (segment, _), *_ = lazy.ask("get", [object_id])[1][1]
    lazy.socket.settimeout(5)
    # Many answers, with and without descriptors, and nobody takes them.
    request = framing.pack("list", 1, []) + framing.pack("segments", 1, [[segment]])
    with contextlib.suppress(OSError):
        for i in range(20_000):
            lazy.socket.sendall(request)
            if i % 1000 == 0:
                assert client.stats().objects == 1
    assert client.stats().objects == 1
    lazy.close()


def test_a_server_out_of_descriptors_goes_on(store: Store) -> None:
    client = store.connected()
    wait_until(store.is_complete)
    server = store.server_pid()
    limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (descriptors(server) + 4, limits[1]))
    crowd = []
    for _ in range(12):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(sockets.address(store.name))
        crowd.append(connection)
    assert client.stats().pid == server
    resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
    for connection in crowd:
        connection.close()
    wait_until(lambda: client.stats().clients == 1)
    assert client.stats().pid == server


def test_a_frame_in_pieces_is_put_together() -> None:
    ours, theirs = socket.socketpair()
    reader = framing.FrameReader()
    frame = framing.pack("put", 7, [b"x" * 300, None])
    for byte in frame:
        assert reader.next() is None
        ours.send(bytes([byte]))
        assert reader.feed(theirs)
    whole = reader.next()
    assert whole is not None
    assert (whole.kind, whole.request_id) == ("put", 7)
    assert msgspec.msgpack.decode(whole.raw) == [b"x" * 300, None]
    ours.close()
    assert not reader.feed(theirs)
    theirs.close()


def test_descriptors_follow_their_frames() -> None:
    ours, theirs = socket.socketpair()
    reader = framing.FrameReader()
    files = [memfd(size) for size in (4096, 8192)]
    for fd in files:
        framing.send(ours, framing.pack("attach", 1, [], 1), [fd])
    while len(array.array("i", list(reader._descriptors))) < 2:
        reader.feed(theirs)
    for size in (4096, 8192):
        frame = reader.next()
        assert frame is not None
        with pytest.raises(ProtocolError, match="2 descriptors; 1 came"):
            frame.take_descriptors(2)
        (fd,) = frame.take_descriptors(1)
        assert os.fstat(fd).st_size == size
        os.close(fd)
    for fd in files:
        os.close(fd)
    ours.close()
    theirs.close()


def test_an_object_that_names_an_allocation_twice_leaves_nothing() -> None:
    table = ObjectTable()
    table.apply(events.SegmentAdded(SEGMENT, 1 << 20, 7, 9))
    twice = struct.pack("<4Q", 0, 100, 0, 200)
    put = b"x", [(SEGMENT, twice)], None, False, None, Counters(), 0.0
    table.apply(events.ObjectAdded(*put))
    assert table.apply(events.ObjectRemoved(b"x")) == [(SEGMENT, struct.pack("<Q", 0))]
    assert table.bytes_stored == 0
    assert len(table.segments[SEGMENT].references) == 0
