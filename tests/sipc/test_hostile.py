"""Malformed messages and segments: a clear SipcError, and nothing else happens."""

import fcntl
import os
import random
import struct
import subprocess
import sys

import pyarrow as pa
import pytest

from tests.helpers.examples import EXAMPLES
from tests.helpers.publishing import Publisher
from tests.helpers.xxh64 import seal, xxh64
from tests.sipc.fuzz import with_words
from zerrow_store.native import _native

HEADER = struct.Struct("<4sHHQQQQQQ")
NULL = -1


@pytest.fixture
def message(publisher: Publisher) -> bytes:
    array = pa.array(range(1000), pa.int64())
    return publisher.encode(pa.table({"a": array, "b": array.cast(pa.string())})).message


def with_header(message: bytes, **changes: int) -> bytes:
    names = ["magic", "version", "kind", "checksum", "segments", "allocations", "schema"]
    names += ["inline", "words"]
    values = dict(zip(names, HEADER.unpack_from(message), strict=True)) | changes
    return seal(HEADER.pack(*values.values()) + message[HEADER.size :])


def with_word(message: bytes, index: int, value: int) -> bytes:
    return seal(with_words(message, index, index + 1, value))


def test_the_checksum_of_the_tests_is_xxh64(message: bytes) -> None:
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"abc") == 0x44BC2CF5AD770999
    assert seal(message) == message


@pytest.mark.parametrize("size", [0, 1, 8, 55])
def test_shorter_than_a_header(message: bytes, size: int) -> None:
    with pytest.raises(_native.SipcError, match="not a SIPC message"):
        _native.decode(message[:size], None)


def test_other_magic(message: bytes) -> None:
    with pytest.raises(_native.SipcError, match="does not begin with"):
        _native.message_segments(b"ARROW1" + message[6:])


def test_other_version(message: bytes) -> None:
    with pytest.raises(_native.SipcError, match="version 2; this reads version 1"):
        _native.decode(with_header(message, version=2), None)


@pytest.mark.parametrize("kind", [0, 6, 65535])
def test_other_kind(message: bytes, kind: int) -> None:
    with pytest.raises(_native.SipcError, match="unknown kind"):
        _native.decode(with_header(message, kind=kind), None)


def test_every_flipped_bit_is_noticed(message: bytes) -> None:
    for at in range(len(message)):
        forged = bytearray(message)
        forged[at] ^= 1 << (at % 8)
        with pytest.raises(_native.SipcError):
            _native.decode(bytes(forged), None)


def test_every_truncation_is_noticed(message: bytes) -> None:
    for size in range(len(message)):
        with pytest.raises(_native.SipcError):
            _native.decode(message[:size], None)
        if size >= 16:
            with pytest.raises(_native.SipcError):
                _native.decode(seal(message[:size]), None)


def test_bytes_after_the_end(message: bytes) -> None:
    with pytest.raises(_native.SipcError, match="after its end"):
        _native.decode(seal(message + bytes(8)), None)


@pytest.mark.parametrize("section", ["segments", "allocations", "schema", "inline", "words"])
@pytest.mark.parametrize("value", [1 << 20, 1 << 60, (1 << 64) - 1])
def test_sections_that_do_not_fit(message: bytes, section: str, value: int) -> None:
    with pytest.raises(_native.SipcError, match="too short for its"):
        _native.decode(with_header(message, **{section: value}), None)


@pytest.mark.parametrize(
    ("word", "value", "error"),
    [
        (0, -1, "number of rows is negative"),
        (0, 999, "1000 rows in a table of 999"),
        (1, 1 << 40, "number of chunks is more than"),
        (2, -5, "length is negative"),
        (2, 1 << 62, "not valid"),
        (3, 1001, "null count 1001"),
        (4, 1, "not valid"),
        (4, (1 << 63) - 1, "not valid"),
        (6, 99, "in allocation 99"),
        (6, -9, "in allocation -9"),
        (7, -1, "offset is negative"),
        (7, 1 << 40, "outside its allocation"),
        (8, 1 << 40, "outside its allocation"),
        (8, 0, "not valid"),
    ],
)
def test_forged_stream(message: bytes, word: int, value: int, error: str) -> None:
    with pytest.raises(_native.SipcError, match=error):
        _native.decode(with_word(message, word, value), None)


def test_allocation_outside_its_segment(message: bytes) -> None:
    forged = bytearray(message)
    struct.pack_into("<Q", forged, HEADER.size + 16 + 8, 1 << 62)
    with pytest.raises(_native.SipcError, match="outside segment"):
        _native.decode(seal(bytes(forged)), None)


def test_segment_that_is_not_mapped(message: bytes) -> None:
    other = os.urandom(16)
    forged = message[: HEADER.size] + other + message[HEADER.size + 16 :]
    with pytest.raises(_native.SipcError, match=f"segment {other.hex()} is not mapped"):
        _native.decode(seal(forged), None)


def test_without_seals_nobody_may_be_able_to_write() -> None:
    """As to files in huge pages, which take none."""
    segment = os.urandom(16)
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o400)
    os.ftruncate(fd, 4096)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    for given, mode in ((fd, 0o400), (reader, 0o600), (reader, 0o420)):
        os.fchmod(fd, mode)
        with pytest.raises(_native.SipcError, match="not sealed against shrinking"):
            _native.map_segment(segment, given, 4096)
    os.fchmod(fd, 0o400)
    _native.map_segment(segment, reader, 4096)
    assert _native.unmap_segment(segment)
    os.close(fd)
    os.close(reader)


def test_a_file_that_can_shrink_is_not_mapped() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    segment = os.urandom(16)
    with pytest.raises(_native.SipcError, match="not sealed against shrinking"):
        _native.map_segment(segment, fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(_native.SipcError, match="has 4096 bytes, not 8192"):
        _native.map_segment(segment, fd, 8192)
    assert segment not in _native.mapped_segments()
    _native.map_segment(segment, fd, 4096)
    assert segment in _native.mapped_segments()
    assert _native.unmap_segment(segment)
    assert not _native.unmap_segment(segment)
    os.close(fd)


@pytest.mark.parametrize("fd", [-1, 1 << 20])
def test_no_such_descriptor(fd: int) -> None:
    with pytest.raises(_native.SipcError, match="cannot map segment"):
        _native.map_segment(os.urandom(16), fd, 4096)


def test_segment_ids_have_16_bytes() -> None:
    with pytest.raises(_native.SipcError, match="16 bytes"):
        _native.unmap_segment(b"short")


def test_view_outside_its_segment() -> None:
    segment, _, size = _native.arena_segment()
    for offset, length in [(size, 1), (0, size + 1), (1 << 63, 1 << 63)]:
        with pytest.raises(_native.SipcError, match="outside segment"):
            _native.view(segment, offset, length, None)


@pytest.mark.parametrize(
    ("name", "reference", "buffer"),
    [("views", 5, 1), ("views", 8, 2), ("dense union", 4, 1), ("dense union", 7, 2)],
)
def test_a_buffer_that_arrow_takes_for_granted(
    publisher: Publisher, name: str, reference: int, buffer: int
) -> None:
    """Arrow's own validation dies of these."""
    message = publisher.encode(EXAMPLES[name]).message
    forged = seal(with_words(message, reference, reference + 3, NULL))
    with pytest.raises(_native.SipcError, match=f"without its buffer {buffer}"):
        _native.decode(forged, None)


def test_fuzz() -> None:
    seed = random.randrange(1 << 30)
    done = subprocess.run(
        [sys.executable, "-m", "tests.sipc.fuzz", str(seed), "20000"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    accepted = int(done.stdout.split()[2])
    assert 0 < accepted < 20000
