"""Spilled bytes are checked before a process reads them: against the checksum of when they were
written.

They are read for that, not touched in their mapping: a disk that fails is an error then, not a
signal that ends the process. What was checked lies in the page cache, where the mapping has it,
until the last hold ends: then the store may drop it, and who holds it next checks again. So checked
is what a live `Checked` stands for, which the holds keep. Process-wide, as mappings are.

The lock is never taken where a hold ends: that may be in a garbage collection, anywhere.
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
    """An allocation that was checked, for as long as this is alive."""

    __slots__ = ("__weakref__",)


class _File:
    """expected: (size, checksum) by offset. Its descriptor ends with it."""

    def __init__(self, fd: int, expected: dict[int, tuple[int, int]]) -> None:
        self.fd = os.dup(fd)
        self.expected = expected
        self._checked: dict[int, weakref.ref[Checked]] = {}

    def __del__(self) -> None:
        os.close(self.fd)

    def checked(self, offset: int) -> Checked | None:
        """Return what stands for an allocation, if some hold of it has checked it."""
        reference = self._checked.get(offset)
        return None if reference is None else reference()

    def note_checked(self, offset: int) -> Checked:
        """Return what stands for an allocation that was checked just now."""
        with _lock:
            checked = self.checked(offset)  # another thread may have been faster
            if checked is None:
                checked = Checked()
                self._checked[offset] = weakref.ref(checked)
            return checked

    def forget_checked(self) -> None:
        """Have everything checked again."""
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
    """Close a file that nobody will read any more, if it was one."""
    with _lock:
        _files.pop(segment_id, None)


def concerns(segment_ids: Iterable[bytes]) -> bool:
    """Whether something in these segments was spilled."""
    return bool(_files) and not _files.keys().isdisjoint(segment_ids)


def check(places: Iterable[Place]) -> tuple[tuple[Checked, ...], dict[bytes, int], float]:
    """Check what is not checked; returns what the hold that reads it is to keep, the bytes read
    from each file, and the seconds that took.

    Raises ObjectLostError for bytes that cannot be read or are not those that were written.
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
    # Holds of the parent's other threads never end here: what they checked would stay so forever.
    for file in _files.values():
        file.forget_checked()


forks.register(in_child=_after_in_child)
