"""What a server shares with its supervisors: how many changes of the object table it has made, and
whether the store's end was meant.

A supervisor that has not read all changes when the server ends would start the next one with the an
object table of a while ago, or one that nobody wants. It sees here that it is behind, also if it
was hung up on long before.
"""

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

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
        os.close(self.fd)
