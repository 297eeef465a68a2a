"""Sealed segments: files of Arrow data that no process can write, not even the host.

The kernel grants `F_SEAL_WRITE` only while no writable mapping exists, and then it holds for good,
for every descriptor, also a reopened one. So an input stays what the host wrote, and an output
stays what the host checked. A segment lives as long as something refers to it: data decoded from
it, a call that has it as input, or the cache of inputs.
"""

import fcntl
import os
import queue
import time
import weakref

from zerrow_store import threads
from zerrow_store.client import sealed_segments
from zerrow_store.forks import Lock
from zerrow_store.native import _native

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Sealed:
    """A sealed segment, mapped in this process.

    Once nothing refers to it, it is unmapped.

    Parameters
    ----------
    fd
        The file. The segment takes it over.
    size
        Its size in bytes.

    Attributes
    ----------
    exclusive
        The one message (see `inputs`) that all bytes of the segment belong to, or None. A sandbox
        that may have that object may map the segment.

    Raises
    ------
    OSError
        The file cannot be sealed or mapped.
    """

    __slots__ = ("__weakref__", "exclusive", "fd", "id", "size")

    def __init__(self, fd: int, size: int) -> None:
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(fd)
        self.id = os.urandom(16)
        self.fd = reading
        self.size = size
        self.exclusive: bytes | None = None
        try:
            self.map()
        except BaseException:
            os.close(reading)
            raise
        sealed_segments.offer(self.id, reading, size)
        _by_id[self.id] = self
        weakref.finalize(self, _gone.put, (self.id, reading)).atexit = False
        _start_thread()

    def map(self) -> None:
        """Map the segment again: a client unmaps the segments that its store no longer has."""
        _native.map_segment(self.id, self.fd, self.size)


def find(segment_id: bytes) -> Sealed | None:
    """Return the sealed segment with this id, or None if this process has none."""
    return _by_id.get(segment_id)


_by_id: "weakref.WeakValueDictionary[bytes, Sealed]" = weakref.WeakValueDictionary()
_gone: "queue.SimpleQueue[tuple[bytes, int]]" = queue.SimpleQueue()
_lock = Lock()
_thread_pid = 0


def _start_thread() -> None:
    global _thread_pid
    with _lock:
        if _thread_pid != os.getpid():
            _thread_pid = os.getpid()
            threads.start(_release, name="zerrow-sealed")


def _release() -> None:
    """Unmap collected segments. The last buffer releases the mapping just after its owner, so the
    first attempt may come too early.
    """
    waiting: list[tuple[bytes, int]] = []
    while True:
        if waiting:
            time.sleep(0.005)
            while not _gone.empty():
                waiting.append(_gone.get())
        else:
            waiting.append(_gone.get())
        for segment_id, fd in list(waiting):
            sealed_segments.withdraw(segment_id)
            if _native.unmap_segment(segment_id) or segment_id not in _native.mapped_segments():
                os.close(fd)
                waiting.remove((segment_id, fd))
