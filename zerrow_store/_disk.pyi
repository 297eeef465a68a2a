"""Bytes between segments and files. This stub is the module's documentation.

Both functions let other threads run, and raise OSError: EIO also where a file is too short.
"""

def copy(source: int, offset: int, size: int, target: int, at: int) -> int:
    """Copy bytes between descriptors; returns their checksum. A file that is written from its
    beginning to its end keeps at most two windows of 8 MiB in the page cache.
    """

def checksum(fd: int, offset: int, size: int) -> int:
    """Return the checksum (XXH3, 64 bits) of bytes of a file."""
