"""Segments, as the kernel shows them to the server."""

import ctypes
import fcntl
import logging
import os
import stat
from mmap import PAGESIZE

from zerrow_store.errors import ProtocolError

logger = logging.getLogger("zerrow_store.server")

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def check_segment(fd: int, size: int, *, sealed: bool = False) -> None:
    """Raise ProtocolError for a descriptor that is not a segment of this size; sealed: that nobody
    can write to.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or type(size) is not int or status.st_size != size:
        raise ProtocolError("a segment is a file of the announced size")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("a segment is shared memory without a path") from error
    if not seals & fcntl.F_SEAL_SHRINK and not _is_producers_alone(status, seals):
        raise ProtocolError("a segment is sealed against shrinking, or cannot be opened to write")
    if sealed and not seals & fcntl.F_SEAL_WRITE:
        raise ProtocolError("a segment without a process is sealed against writing")
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise ProtocolError(
            "the store cannot open the file of this process's arena, as readers have to "
            f"({error.strerror}): has the process changed its user?"
        ) from error


def _is_producers_alone(status: os.stat_result, seals: int) -> bool:
    """Whether nobody can open a file for writing any more, which takes no seals: one in huge pages.
    Its producer, which has it open, can truncate it, and harms itself and its readers alone.
    """
    return seals == fcntl.F_SEAL_SEAL and status.st_nlink == 0 and not status.st_mode & 0o222


def is_mapped_by_a_child(fd: int) -> bool:
    """Whether a forked child of an arena's process still has the arena, after that has ended.

    Each mapping of an arena that its process or a child has keeps a lock on the file, of another
    open file description than `fd` (see native/memory/memory_file.h).
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def punch(fd: int, start: int, end: int) -> None:
    """Give the whole pages between `start` and `end` back to the kernel."""
    start, end = -(-start // PAGESIZE) * PAGESIZE, end // PAGESIZE * PAGESIZE
    if end > start and _libc.fallocate(fd, _PUNCH_HOLE, start, end - start) != 0:
        logger.warning("could not give memory back: %s", os.strerror(ctypes.get_errno()))


def resident_bytes(fd: int) -> int:
    """Return what a segment has in memory (or swap), its holes left out."""
    return os.fstat(fd).st_blocks * 512
