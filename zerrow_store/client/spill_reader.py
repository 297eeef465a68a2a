"""The spill reader: it checks spilled bytes against their checksums before a process reads them.

It reads the file instead of the mapping, so a failing disk is an error, not a signal that ends the
process. Checked bytes stay in the page cache, which also backs the mapping, until the last hold
ends. Then the store may drop them from the page cache, and the next hold checks them again. A
`Checked`, which the holds keep alive, stands for checked bytes. All this is process-wide, as the
mappings are.

The lock is never taken when a hold ends, because that may happen in a garbage collection anywhere.
"""

import os
import time
import weakref
from collections import defaultdict
from collections.abc import Iterable

from zerrow_store import _disk, forks
from zerrow_store.errors import ObjectLostError
from zerrow_store.forks import Lock
from zerrow_store.protocol.places import Place


class Checked:
    """Stands for an allocation, which counts as checked for as long as this is alive."""

    __slots__ = ("__weakref__",)


class _File:
    """A spilled file. expected: (size, checksum) by offset."""

    def __init__(self, fd: int, expected: dict[int, tuple[int, int]]) -> None:
        self.fd = os.dup(fd)
        self.expected = expected
        self._checked: dict[int, weakref.ref[Checked]] = {}

    def __del__(self) -> None:
        os.close(self.fd)

    def checked(self, offset: int) -> Checked | None:
        """Return the live `Checked` of an allocation; None if no hold has checked it."""
        reference = self._checked.get(offset)
        return None if reference is None else reference()

    def note_checked(self, offset: int) -> Checked:
        """Return the `Checked` of an allocation that was checked just now."""
        with _lock:
            checked = self.checked(offset)  # another thread may have been faster
            if checked is None:
                checked = Checked()
                self._checked[offset] = weakref.ref(checked)
            return checked

    def forget_checked(self) -> None:
        """Let everything be checked again."""
        self._checked = {}


_lock = Lock()
_files: dict[bytes, _File] = {}
"""By segment id; guarded by the lock."""


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
    """Close the file of a segment that nobody will read any more, if it is a spilled one."""
    with _lock:
        _files.pop(segment_id, None)


def concerns(segment_ids: Iterable[bytes]) -> bool:
    """Whether any of these segments is a spilled file."""
    return bool(_files) and not _files.keys().isdisjoint(segment_ids)


def check(places: Iterable[Place]) -> tuple[tuple[Checked, ...], dict[bytes, int], float]:
    """Check allocations that are not checked. Return what the reader's hold has to keep, the bytes
    read from each file, and the seconds that this took.

    Raises ObjectLostError for bytes that cannot be read, or differ from those that were written.
    """
    kept: list[Checked] = []
    read: defaultdict[bytes, int] = defaultdict(int)
    seconds = 0.0
    for segment_id, offset in places:
        file = _files.get(segment_id)
        if file is None or offset not in file.expected:
            continue
        checked = file.checked(offset)
        if checked is None:
            size, checksum = file.expected[offset]
            started = time.monotonic()
            _compare(file.fd, offset, size, checksum)
            seconds += time.monotonic() - started
            read[segment_id] += size
            checked = file.note_checked(offset)
        kept.append(checked)
    return tuple(kept), dict(read), seconds


def _compare(fd: int, offset: int, size: int, checksum: int) -> None:
    try:
        found = _disk.checksum(fd, offset, size)
    except OSError as error:
        raise ObjectLostError(f"{size:,} spilled bytes cannot be read: {error}") from error
    if found != checksum:
        raise ObjectLostError(f"{size:,} spilled bytes have changed on disk")


def _after_in_child() -> None:
    # Holds of the parent's other threads never end here, so what they checked would count as
    # checked forever.
    for file in _files.values():
        file.forget_checked()


forks.register(in_child=_after_in_child)
