"""Arrow inputs of a sandbox.

An input is a SIPC message, and the one sealed segment that it refers to. A process's arena holds
the bytes of many tables, and a reader that maps a file sees all of it. So a sandbox gets a sealed
file with nothing else in it: the output of an earlier sandbox as it is, or a copy. The copy is the
price of isolation. It is made once per object, even if that is decoded anew for every task, and
kept for some seconds after its last use.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from zerrow_store import forks, threads
from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.forks import Lock
from zerrow_store.memfd import create_memfd
from zerrow_store.native import _native
from zerrow_store.sandbox import ipc, stats
from zerrow_store.sandbox.sealed import Sealed, find

_KEEP_SECONDS = 5.0
_KEEP_BYTES = 4 << 30
_LEAST_BYTES = 32 << 10
"""Of data by reference: a segment costs more than it saves for less."""


@dataclass(frozen=True)
class Input:
    """Arrow data that a sandbox may read."""

    message: bytes
    segment: Sealed


class _CachedCopy:
    """A copy in the cache, which pins its source.

    The key stands for the source's memory, which must not be reused while the key is known.
    """

    def __init__(self, copy: Input, source: _native.Encoded) -> None:
        self.copy = copy
        self.source = source
        self.used = time.monotonic()


_lock = Lock()
_cache: dict[bytes, _CachedCopy] = {}
_thread_pid = 0


def needs_segment(value: Any) -> bool:
    """Return whether a value is Arrow data that goes by reference, not within the call's pickle."""
    # Not by its nbytes, which pyarrow up to 23 does not know of views.
    return isinstance(value, ARROW_DATA) and _native.reaches(value, _LEAST_BYTES)


def prepare(value: Any) -> Input:
    """Return Arrow data as an input.

    Raises
    ------
    MemoryError, OSError
        No copy can be made.
    ValueError
        The data cannot be encoded; see `_native.encode`.
    """
    encoded = _native.encode(value)
    is_cached = False
    try:
        if (shared := _shared(encoded)) is not None:
            return shared
        with _lock:
            if (cached := _cache.get(encoded.message)) is not None:
                cached.used = time.monotonic()
                stats.count(bytes_shared=cached.copy.segment.size)
                return cached.copy
        copy = _copy(value)
        if encoded.bytes_copied == 0:  # else the same object has another key next time
            _add(encoded.message, _CachedCopy(copy, encoded))
            is_cached = True
        return copy
    finally:
        if not is_cached:
            encoded.unpin()


def forget() -> None:
    """Drop all cached copies."""
    with _lock:
        dropped = list(_cache.values())
        _cache.clear()
    _unpin(dropped)


def _shared(encoded: _native.Encoded) -> Input | None:
    """Return data that is all there is in its sealed segment; None for other data."""
    if encoded.own or len(encoded.foreign) != 1:
        return None
    segment = find(encoded.foreign[0][0])
    if segment is None or segment.exclusive != encoded.message:
        return None
    stats.count(bytes_shared=encoded.bytes_reshared)
    return Input(encoded.message, segment)


def _copy(value: Any) -> Input:
    schema, batches = ipc.to_batches(value)
    size = ipc.write(pa.MockOutputStream(), schema, batches)
    fd = create_memfd("zerrow-input")
    try:
        with pa.OSFile(f"/proc/self/fd/{fd}", "wb") as file:
            ipc.write(file, schema, batches)
    except BaseException:
        os.close(fd)
        raise
    segment = Sealed(fd, size)
    copied = ipc.restore(_native.view(segment.id, 0, size, segment), ipc.kind_of(value))
    encoded = _native.encode(copied)
    encoded.unpin()  # the little that Arrow's reader allocated is in the message
    if encoded.own:
        raise ValueError("Arrow's reader did not leave the data where it lies")
    segment.exclusive = encoded.message
    stats.count(bytes_copied=size)
    return Input(encoded.message, segment)


def _add(key: bytes, copy: _CachedCopy) -> None:
    global _thread_pid
    with _lock:
        previous = _cache.pop(key, None)
        _cache[key] = copy
        if _thread_pid != os.getpid():
            _thread_pid = os.getpid()
            threads.start(_expire, name="zerrow-inputs")
    if previous is not None:
        _unpin([previous])
    _drop_expired()


def _drop_expired() -> None:
    now = time.monotonic()
    with _lock:
        by_age = sorted(_cache.items(), key=lambda item: item[1].used)
        total = sum(cached.copy.segment.size for cached in _cache.values())
        dropped = []
        for key, cached in by_age:
            if now - cached.used > _KEEP_SECONDS or total > _KEEP_BYTES:
                total -= cached.copy.segment.size
                dropped.append(_cache.pop(key))
    _unpin(dropped)


def _expire() -> None:
    while True:
        time.sleep(1.0)
        _drop_expired()


def _unpin(dropped: list[_CachedCopy]) -> None:
    for cached in dropped:
        cached.source.unpin()


def _after_fork_in_child() -> None:
    _cache.clear()  # the pins are the parent's


forks.register(in_child=_after_fork_in_child)
