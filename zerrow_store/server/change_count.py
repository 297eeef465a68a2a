"""The change counter, in memory that all processes of a store share.

It also says whether the store's end was meant.

A supervisor that has not read all changes when the server ends would start the next one with an
outdated object table, or one that nobody wants. It sees here that it is behind, also if it
was hung up on long before, by a server that was not the last one. All servers of a store count on.

Supervisors that have all changes hold a lock, so that one that is behind sees whether there is
another that is not, however long that takes to act.
"""

import fcntl
import mmap
import os
import struct

from zerrow_store.memfd import create_memfd

_NUMBER = struct.Struct("<Q")
_ENDED = struct.Struct("<8x?")


class ChangeCount:
    """The number, in memory of its own; or in another process's, whose descriptor is given."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = create_memfd("zerrow-changes")
            os.ftruncate(fd, mmap.PAGESIZE)
        self.fd = fd
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        # A lock belongs to an opening of the file, and those who were sent a descriptor share one.
        self._lock = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def value(self) -> int:
        """How many changes there have been."""
        (value,) = _NUMBER.unpack_from(self._memory)
        return int(value)

    def count(self) -> None:
        """Note a change."""
        _NUMBER.pack_into(self._memory, 0, self.value + 1)

    @property
    def ended(self) -> bool:
        """Whether the store's end was meant."""
        (ended,) = _ENDED.unpack_from(self._memory)
        return bool(ended)

    def end(self) -> None:
        """Note that the store's end is meant."""
        _ENDED.pack_into(self._memory, 0, True)

    def has_all(self) -> None:
        """Note that this process has all changes up to now, until `close` or `is_last`."""
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def is_last(self) -> bool:
        """Whether no living process may have all changes. This process does not have them."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return True

    def close(self) -> None:
        """Unmap the memory."""
        os.close(self._lock)
        self._memory.close()
        os.close(self.fd)
