"""Sealed segments that wait for their first put.

They have no process; a store takes them over with the first put. The output of a sandbox lies in a
file that is sealed against writing, whose process has ended. The process that received the file
offers it here, and `Client.publish` passes it to the store with the first object that refers to it.
The same goes for files of memory that KernelZero has moved.
"""

import os

from zerrow_store.forks import Lock
from zerrow_store.native import _native
from zerrow_store.protocol import framing

_lock = Lock()
_offered: dict[bytes, tuple[int, int]] = {}


def offer(segment_id: bytes, fd: int, size: int) -> None:
    """Offer a sealed segment. The caller keeps the descriptor open until it withdraws the offer."""
    with _lock:
        _offered[segment_id] = (fd, size)


def withdraw(segment_id: bytes) -> None:
    """Withdraw the offer of a segment."""
    with _lock:
        _offered.pop(segment_id, None)


def take(segment_ids: list[bytes]) -> list[tuple[bytes, int, int]]:
    """Return the segments among these that are offered, or files of moved memory: (segment id,
    descriptor, size). The caller closes the descriptors.
    """
    with _lock:
        found = [(s, *_offered[s]) for s in segment_ids if s in _offered]
        del found[framing.MAX_DESCRIPTORS :]  # without the rest, the store refuses the object
        offered = [(s, os.dup(fd), size) for s, fd, size in found]
    return offered + _native.moved_files(segment_ids, framing.MAX_DESCRIPTORS - len(offered))


def close(fds: list[int]) -> None:
    """Close the descriptors that `take` has returned."""
    while fds:
        os.close(fds.pop())
