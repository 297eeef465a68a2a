"""Bytes of files to a socket, and from a socket to memory. This stub is the module's documentation.

The socket is a blocking one, given by its descriptor. Both functions let other threads run, return
the checksum (XXH3, 64 bits, big-endian) of all bytes, and raise OSError: ETIMEDOUT after the
socket's SO_SNDTIMEO or SO_RCVTIMEO without a byte.
"""

def send(socket: int, ranges: list[tuple[int, int, int]]) -> bytes:
    """Send ranges of files (descriptor, offset, size) with sendfile(2). EIO where one is too
    short.
    """

def receive_into(socket: int, targets: list[memoryview]) -> bytes:
    """Fill writable buffers, one after the other."""
