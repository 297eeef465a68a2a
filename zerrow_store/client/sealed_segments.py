"""Segments without a process of their own, which a store takes over with the first put.

A sandbox's output lies in a file that is sealed against writing, and its process has ended. Whoever
received it offers it here, and `Client.publish` hands it to the store with the first object that
refers to it. So it does with the sealed files of memory that KernelZero has moved.
"""

import os

from zerrow_store.forks import Lock
from zerrow_store.native import _native
from zerrow_store.protocol import framing

_lock = Lock()
_offered: dict[bytes, tuple[int, int]] = {}


def offer(segment_id: bytes, fd: int, size: int) -> None:
    """Offer a sealed segment; the descriptor stays the caller's, open until withdrawn."""
    with _lock:
        _offered[segment_id] = (fd, size)


def withdraw(segment_id: bytes) -> None:
    """Offer a segment no longer."""
    with _lock:
        _offered.pop(segment_id, None)


def take(segment_ids: list[bytes]) -> list[tuple[bytes, int, int]]:
    """Return those that are offered, or moved here: (segment id, a descriptor of the caller's own,
    size).
    """
    with _lock:
        found = [(s, *_offered[s]) for s in segment_ids if s in _offered]
        del found[framing.MAX_DESCRIPTORS :]  # what is beyond is lost to the store, which says so
        offered = [(s, os.dup(fd), size) for s, fd, size in found]
    return offered + _native.moved_files(segment_ids, framing.MAX_DESCRIPTORS - len(offered))


def close(fds: list[int]) -> None:
    """Close what `take` returned."""
    while fds:
        os.close(fds.pop())
