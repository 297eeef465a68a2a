"""Encoding, with the books that a node store would keep, over the backend under test.

With ZERROW_TEST_BACKEND=kernelzero the same tests run over memory that the kernel module moves (in
QEMU, or emulated: see tests/kernelzero), and nothing comes from the arena that need not be copied.
"""

import os
import struct
from typing import Any

from zerrow_store.native import _native

MOVING = os.environ.get("ZERROW_TEST_BACKEND") == "kernelzero"
_PAGE = 4096


def capture_arrow(on: bool) -> None:
    """Let Arrow allocate what can be shared, by the backend under test."""
    if MOVING:
        _native.track_arrow()
        _native.track_allocations(on)
    else:
        _native.capture_arrow(on)


def capture_numpy(on: bool) -> None:
    """Let NumPy do so."""
    if MOVING:
        _native.track_numpy()
    else:
        _native.capture_numpy(on)


class Publisher:
    """Encodes, and keeps the books that a node store would keep."""

    def __init__(self) -> None:
        self.published: list[_native.Encoded] = []

    def encode(self, data: object) -> _native.Encoded:
        return self._took(_native.encode(data, move=MOVING))

    def encode_buffers(self, header: bytes, buffers: list[object]) -> _native.Encoded:
        return self._took(_native.encode_buffers(header, buffers, move=MOVING))

    def trip(self, data: object, owner: object = None) -> Any:
        return _native.decode(self.encode(data).message, owner)

    def close(self) -> None:
        for kept in self.published:
            _native.unpin(b"".join(struct.pack("<Q", offset) for offset, _ in ranges(kept.own)))
        self.published.clear()

    def _took(self, encoded: _native.Encoded) -> _native.Encoded:
        self.published.append(encoded)
        return encoded


def ranges(packed: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<QQ", packed))


def moved(encoded: _native.Encoded) -> list[tuple[bytes, int, int]]:
    """Return the allocations (segment, offset, size) that lie in files of moved memory."""
    files = _native.moved_files([segment for segment, _ in encoded.foreign], 200)
    for _, fd, _ in files:
        os.close(fd)
    known = {segment for segment, _, _ in files}
    return [(s, *r) for s, packed in encoded.foreign if s in known for r in ranges(packed)]


def stored(encoded: _native.Encoded) -> list[tuple[bytes, int, int]]:
    """Return the allocations (segment, offset, size) that this process has published itself."""
    own = [(_native.arena_segment()[0], *r) for r in ranges(encoded.own)]
    return own + moved(encoded)


def edges(encoded: _native.Encoded) -> int:
    """Return how many bytes may have been copied: the first and last page of what was moved."""
    return 2 * _PAGE * len(moved(encoded))
