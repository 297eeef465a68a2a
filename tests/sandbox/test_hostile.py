"""Forged results: what a sandbox may send instead of what an honest one does."""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.processes import descriptors
from tests.helpers.sandboxes import mapped
from tests.helpers.waiting import eventually
from tests.helpers.xxh64 import xxh64
from zerrow_store import sandbox
from zerrow_store.errors import SandboxError
from zerrow_store.native import _native
from zerrow_store.protocol.framing import Frame
from zerrow_store.sandbox import inputs, messages, outputs, values
from zerrow_store.sandbox.call_process import CallProcess
from zerrow_store.sandbox.sealed import find

ARENA = b"A" * 16
SIZE = 1 << 20
MOST = 64 << 20


def _file(size: int = SIZE, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) -> int:
    fd = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _message(
    change: Callable[[list[tuple[int, int]]], None] | None = None,
    segment: bytes = ARENA,
    table: pa.Table | None = None,
) -> bytes:
    """A message of a table of two columns, its segment and allocations changed."""
    table = table or pa.table({"x": np.arange(1000), "y": np.arange(1000.0)})
    encoded = _native.encode(table)
    encoded.unpin()
    message = bytearray(encoded.message)
    segments, count = struct.unpack_from("<QQ", message, 16)
    assert segments == 1
    message[56:72] = segment
    # Laid out one after the other from 0, as if the arena had nothing else.
    sizes = [struct.unpack_from("<QQQ", message, 72 + 24 * i)[2] for i in range(count)]
    places = [(4096 * 8 * i, size) for i, size in enumerate(sizes)]
    if change is not None:
        change(places)
    for i, (offset, size) in enumerate(places):
        struct.pack_into("<QQQ", message, 72 + 24 * i, 0, offset, size)
    seed = int.from_bytes(message[:8], "little")
    struct.pack_into("<Q", message, 8, xxh64(bytes(message[16:]), seed))
    return bytes(message)


def _body(*sipc: bytes, size: int = SIZE, claimed: bytes = ARENA, packed: Any = None) -> bytes:
    """A result's body: the messages of as many arrays in a list."""
    remaining = list(sipc)
    plain, _ = values.pack([pa.array([1])] * len(remaining), lambda _: remaining.pop(0))
    return msgspec.msgpack.encode([[claimed, size], plain if packed is None else packed, sipc])


def _receive(body: bytes, *fds: int, given: list[Any] | None = None) -> Any:
    frame = Frame(messages.RESULT, 0, msgspec.Raw(body), list(fds))
    return outputs.receive(frame, given or [], MOST)


def _refused(match: str, body: bytes, *fds: int, given: list[Any] | None = None) -> None:
    eventually(lambda: not [s for s in mapped() if find(s) is None], "unmapped")
    before = descriptors() - len(fds)
    with pytest.raises(SandboxError, match=match):
        _receive(body, *fds, given=given)
    eventually(lambda: descriptors() <= before, "all descriptors are closed")


def test_the_honest_one_is_taken() -> None:
    (table,) = _receive(_body(_message()), _file())
    assert table.num_rows == 1000
    assert table["x"].to_pylist() == [0] * 1000


def test_a_foreign_segment() -> None:
    secret = pa.table({"x": pc.add(pa.array(np.arange(50_000)), 0)})
    own, _, _ = _native.arena_segment()
    _refused("was not given", _body(_message(segment=own)), _file())
    other = inputs.prepare(secret).segment
    _refused("was not given", _body(_message(segment=other.id)), _file())
    _refused("not the sandbox's own", _body(claimed=other.id), _file(), given=[other])


def test_extents_out_of_bounds() -> None:
    def beyond(places: list[tuple[int, int]]) -> None:
        places[-1] = (SIZE - 8, places[-1][1])

    _refused("outside of its arena", _body(_message(beyond)), _file())

    def wrapped(places: list[tuple[int, int]]) -> None:
        places[-1] = (2**64 - 4096, places[-1][1])

    _refused("refused", _body(_message(wrapped)), _file())
    table = pa.table({"x": pc.add(pa.array(np.arange(50_000)), 0)})
    given = inputs.prepare(table).segment

    def beyond_input(places: list[tuple[int, int]]) -> None:
        places[0] = (given.size - 8, places[0][1])

    message = _message(beyond_input, segment=given.id)
    _refused("outside of an input", _body(message), given=[given])


def test_extents_that_overlap() -> None:
    def overlap(places: list[tuple[int, int]]) -> None:
        places[1] = (places[0][0] + 8, places[1][1])

    _refused("overlap", _body(_message(overlap)), _file())


def test_offsets_in_the_data_are_read() -> None:
    fd = _file()
    strings = pa.table({"s": pa.array(["abcdefgh" * 4] * 1000)})
    os.pwrite(fd, struct.pack("<1001i", *([0] * 1000), 1 << 30), 0)
    _refused("refused", _body(_message(table=strings)), fd)


def test_files_that_are_no_arena() -> None:
    _refused("sealed against shrinking", _body(_message()), _file(seals=0))
    _refused("announced size", _body(_message(), size=2 * SIZE), _file())
    _refused("larger than its limit", _body(_message(), size=2 * MOST), _file(2 * MOST))
    reading, writing = os.pipe()
    _refused("announced size", _body(_message()), reading)
    os.close(writing)
    _refused("refused", _body(_message()), os.open("/dev/null", os.O_RDWR))
    _refused("was not given", _body(_message()))


def test_an_arena_that_can_still_be_written() -> None:
    fd = _file()
    with mmap.mmap(fd, SIZE) as mapped:
        mapped[0] = 1
        _refused("still be written", _body(_message()), os.dup(fd))
        mapped[0] = 2
    os.close(fd)


def test_an_arena_that_refuses_to_be_sealed() -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    _refused("not permitted", _body(_message()), _file(seals=seals))


def test_what_is_beside_the_result_is_gone() -> None:
    fd = _file()
    os.pwrite(fd, b"secret" * 100_000, 0)
    kept = os.dup(fd)
    (table,) = _receive(_body(_message()), fd)
    data = os.pread(kept, SIZE, 0)
    os.close(kept)
    assert data[:8000] == (b"secret" * 100_000)[:8000]
    assert data[8000 : 4096 * 8] == bytes(4096 * 8 - 8000)
    assert data[4096 * 8 + 8000 :] == bytes(SIZE - 4096 * 8 - 8000)
    assert table.num_rows == 1000


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\xd6\x00\x05\x00\x00\x00",
        b"\xd4\x63\x00",
        b"\xd5\x03\x91\x90",
        b"\x91" * 3999 + b"\xc0",
        bytes(messages.LONGEST_VALUES + 1),
    ],
)
def test_malformed_values(packed: bytes) -> None:
    _refused("refused", _body(packed=packed))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\xc0\xc4\x01\xc0\xdd\xff\xff\xff\xff",
        b"\x91" * 5000 + b"\xc0",
        msgspec.msgpack.encode([None, b"\xc0", [], "more"]),
        msgspec.msgpack.encode([None, b"\xc0"]),
        msgspec.msgpack.encode([[b"short", SIZE], b"\xc0", []]),
        msgspec.msgpack.encode([[ARENA, -1], b"\xc0", []]),
        msgspec.msgpack.encode([None, b"\xc0", [b""] * (messages.MOST_MESSAGES + 1)]),
        msgspec.msgpack.encode([None, b"\xc0", ["text"]]),
    ],
)
def test_malformed_results(body: bytes) -> None:
    _refused("malformed result", body)


def test_an_answer_of_another_kind_or_shape() -> None:
    for kind, body in (
        ("nonsense", []),
        (messages.FAILURE, ["E", "text", "trace", 1]),
        (messages.FAILURE, ["E", "x" * (messages.LONGEST_TEXT + 1), "trace", False]),
    ):
        frame = Frame(kind, 0, msgspec.Raw(msgspec.msgpack.encode(body)), [])
        error = CallProcess.error(Mock(), frame, sandbox.SandboxOptions())
        assert "answer was refused" in str(error)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_frames(seed: int) -> None:
    random = np.random.default_rng(seed)
    good = bytearray(_body(_message(), _message()))
    for _ in range(50):
        bad = bytearray(good)
        for at in random.integers(0, len(bad), random.integers(1, 5)):
            bad[at] = random.integers(0, 256)
        try:
            _receive(bytes(bad), _file())
        except SandboxError:
            continue


@needs_sandboxes
def test_forged_from_inside() -> None:
    """The same by a real sandbox, which replaces what makes its answer."""

    def forge(packed: bytes, sipc: list[bytes]) -> None:
        from zerrow_store.sandbox import child

        child.values.pack = lambda *_: (packed, sipc)  # type: ignore[attr-defined]

    foreign = _message(segment=os.urandom(16))
    with pytest.raises(SandboxError, match="was not given"):
        sandbox.run(forge, b"\xc0", [foreign])
    with pytest.raises(SandboxError, match="refused"):
        sandbox.run(forge, b"nonsense", [])
    assert sandbox.run(lambda: 1) == 1


@needs_sandboxes
def test_a_flood_of_bytes_and_descriptors() -> None:
    def flood(descriptors: int) -> None:
        import gc
        import socket

        host = next(o for o in gc.get_objects() if isinstance(o, socket.socket) and o.fileno() > 2)
        if descriptors:
            socket.send_fds(host, [b"\0\0\0\0\0\0"], [1] * descriptors)
        host.sendall(b"\xff" * 100_000)

    for count in (0, 50):
        with pytest.raises(SandboxError, match="was ended"):
            sandbox.run(flood, count)
    assert sandbox.run(lambda: 1) == 1
