"""The host's checks of a sandbox's result, before anything reads it.

By now all processes of the call have ended. The kernel seals the arena against writing, and refuses
while a process could still write, so the arena cannot change after the checks. All bytes of the
arena that the result does not refer to are overwritten, and take no memory.
"""

import errno
import os
import stat
import time
from collections.abc import Sequence
from mmap import PAGESIZE
from typing import Any

import pyarrow as pa

from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.errors import ProtocolError, SandboxError
from zerrow_store.native import _native
from zerrow_store.protocol.framing import Frame
from zerrow_store.sandbox import messages, stats, values
from zerrow_store.sandbox.messages import Result
from zerrow_store.sandbox.sealed import Sealed
from zerrow_store.segments import check_segment, punch

_SEAL_SECONDS = 1.0

Ranges = list[tuple[int, int]]


def receive(frame: Frame, inputs: Sequence[Sealed], most: int) -> Any:
    """Return the result in a frame, whose descriptors are closed.

    Parameters
    ----------
    frame
        The call's answer.
    inputs
        The segments that the call was given.
    most
        The largest size of an arena, in bytes.

    Raises
    ------
    SandboxError
        The result is not one that an honest sandbox sends.
    """
    try:
        result = messages.decode(frame, Result)
        claimed, size = result.arena or (b"", 0)
        known = {segment.id: segment for segment in inputs}
        if claimed in known or len(frame.descriptors) > 1:
            raise ProtocolError("a segment is claimed that is not the sandbox's own")
        tables = [_native.message_allocations(message) for message in result.messages]
        own = _own_ranges(tables, claimed if frame.descriptors else None, known)
        arena = _seal(frame.descriptors.pop(), size, own, most) if frame.descriptors else None
        if arena is not None:
            known[claimed] = arena
        arrow = [_decode(m, t, known) for m, t in zip(result.messages, tables, strict=True)]
        if arena is not None and len(arrow) == 1 and all(s == claimed for s, *_ in tables[0]):
            again = _native.encode(arrow[0])
            arena.exclusive = None if again.own else again.message
        stats.count(bytes_returned=sum(length for _, length in own))
        return values.unpack(result.values, arrow)
    except (ProtocolError, _native.SipcError, pa.ArrowInvalid, OSError) as error:
        raise SandboxError(f"the sandbox's result was refused: {error}") from error
    finally:
        frame.close()


def _own_ranges(
    tables: Sequence[list[tuple[bytes, int, int]]], own: bytes | None, known: dict[bytes, Sealed]
) -> Ranges:
    """Return the distinct ranges of the arena, in order. All other ranges must be of inputs."""
    ranges = set()
    for segment, offset, size in (entry for table in tables for entry in table):
        if segment == own:
            ranges.add((offset, size))
        elif segment not in known:
            raise ProtocolError(f"it refers to segment {segment.hex()}, which it was not given")
        elif offset + size > known[segment].size:
            raise ProtocolError("it refers to bytes outside of an input")
    ordered = sorted(ranges)
    end = 0
    for offset, size in ordered:
        if size == 0 or offset < end:
            raise ProtocolError("its allocations are empty or overlap")
        end = offset + size
    return ordered


def _seal(received: int, size: int, ranges: Ranges, most: int) -> Sealed:
    try:
        check_segment(received, size)  # before it is opened: it may be any file
        status = os.fstat(received)
        if (
            size > most
            or sum(length for _, length in ranges) > most
            or status.st_blksize != PAGESIZE
            or not stat.S_ISREG(status.st_mode)
        ):
            raise ProtocolError("its arena is larger than its limit, or of large pages")
        if ranges and sum(ranges[-1]) > size:
            raise ProtocolError("it refers to bytes outside of its arena")
        # The host's own descriptor: the sandbox chose the other one's flags (append, read-only).
        fd = os.open(f"/proc/self/fd/{received}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(received)
    try:
        _scrub(fd, size, ranges)
        return _sealed(fd, size)
    finally:
        os.close(fd)


def _sealed(fd: int, size: int) -> Sealed:
    deadline = time.monotonic() + _SEAL_SECONDS
    while True:
        try:
            return Sealed(os.dup(fd), size)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() > deadline:
                raise ProtocolError("its arena can still be written to") from error
        time.sleep(0.002)  # the kernel may still be unmapping it from ended processes


def _scrub(fd: int, size: int, ranges: Ranges) -> None:
    """Overwrite all bytes outside of `ranges`."""
    start = 0
    for offset, length in [*ranges, (size, 0)]:
        if offset > start:
            whole, end = -(-start // PAGESIZE) * PAGESIZE, offset // PAGESIZE * PAGESIZE
            if end > whole:
                punch(fd, whole, end)
                _zero(fd, start, whole)
                _zero(fd, end, offset)
            else:
                _zero(fd, start, offset)
        start = offset + length


def _zero(fd: int, start: int, end: int) -> None:
    if end > start and os.pwrite(fd, bytes(end - start), start) != end - start:
        raise OSError(errno.EIO, "its arena cannot be overwritten")


def _decode(message: bytes, table: list[tuple[bytes, int, int]], known: dict[bytes, Sealed]) -> Any:
    owner = tuple({known[segment].id: known[segment] for segment, _, _ in table}.values())
    for sealed in owner:
        sealed.map()
    places = [(known[segment].id, offset) for segment, offset, _ in table]
    value = _native.decode(message, owner, places)
    if not isinstance(value, ARROW_DATA):
        raise ProtocolError("a message holds no Arrow data")
    # Reads offsets and indices, too: computing with forged ones would crash.
    value.validate(full=True)
    return value
