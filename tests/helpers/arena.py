"""The arena of this process, looked at from outside."""

import ctypes
import os

from zerrow_store.native import _native


def file_bytes(address: int, size: int) -> bytes:
    """Read what the arena's file holds for an address: what other processes see."""
    found = _native.ArenaProbe.find(address, size)
    assert found is not None
    _, fd, _ = _native.arena_segment()
    return os.pread(fd, size, found[0])


def resident() -> int:
    """Return the bytes that the arena's file really takes, by the kernel's count."""
    _, fd, _ = _native.arena_segment()
    return os.fstat(fd).st_blocks * 512


def poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def peek(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def pinned() -> int:
    return _native.arena_stats()["pinned"]
