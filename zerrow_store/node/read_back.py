"""Spilled bytes are checked when a process first reads them: against the checksum of when they
were written.

They are read for that, not touched in their mapping: a disk that fails is an error then, not a
signal that ends the process. What was checked lies in the page cache, where the mapping has it.
Process-wide, as mappings are.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable

from zerrow_store.errors import ObjectLostError
from zerrow_store.node import _disk
from zerrow_store.node.books import Place


class _File:
    """unchecked: (size, checksum) by offset. Its descriptor ends with it."""

    def __init__(self, fd: int, unchecked: dict[int, tuple[int, int]]) -> None:
        self.fd = os.dup(fd)
        self.unchecked = unchecked

    def __del__(self) -> None:
        os.close(self.fd)


_lock = threading.Lock()
_files: dict[bytes, _File] = {}
"""By segment id, those with something unchecked in them; guarded by the lock."""


def register(
    segment_id: bytes, fd: int, size: int, checksums: Iterable[tuple[int, int, int]]
) -> None:
    """Note a file that is about to be mapped. checksums: (offset, size, checksum).

    Raises ObjectLostError if it is shorter than it was.
    """
    if os.fstat(fd).st_size < size:
        raise ObjectLostError(f"spilled bytes cannot be read: a file of {size:,} is truncated")
    file = _File(fd, {offset: (size, checksum) for offset, size, checksum in checksums})
    with _lock:
        _files.setdefault(segment_id, file)


def forget(segment_id: bytes) -> None:
    """Close a file that nobody will read any more, if it was one."""
    with _lock:
        _files.pop(segment_id, None)


def concerns(segment_ids: Iterable[bytes]) -> bool:
    """Whether something in these segments is to be checked."""
    return bool(_files) and not _files.keys().isdisjoint(segment_ids)


def check(places: Iterable[Place]) -> tuple[dict[bytes, int], float]:
    """Check what was not checked yet; returns the bytes read from each file, and the seconds.

    Raises ObjectLostError for bytes that cannot be read or are not those that were written.
    """
    started = time.monotonic()
    read: defaultdict[bytes, int] = defaultdict(int)
    for segment_id, offset in places:
        file = _files.get(segment_id)
        expected = file.unchecked.get(offset) if file is not None else None
        if file is None or expected is None:
            continue
        size, checksum = expected
        try:
            found = _disk.checksum(file.fd, offset, size)
        except OSError as error:
            raise ObjectLostError(f"{size:,} spilled bytes cannot be read: {error}") from error
        if found != checksum:
            raise ObjectLostError(f"{size:,} spilled bytes have changed on disk")
        read[segment_id] += size
        with _lock:
            file.unchecked.pop(offset, None)
            if not file.unchecked:
                _files.pop(segment_id, None)
    return dict(read), time.monotonic() - started


def _after_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_in_child)
