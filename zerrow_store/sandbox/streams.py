"""The stdout and stderr of a call, forwarded to the host's own."""

import os
import selectors
import sys
from typing import Any

_CHUNK = 1 << 16


class Streams:
    """A pipe for each stream. The sandbox has the writers, and the host reads without blocking."""

    def __init__(self) -> None:
        self.writers: list[int] = []
        self._readers: dict[int, Any] = {}
        for stream in (sys.stdout, sys.stderr):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._readers[reader] = stream
            self.writers.append(writer)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Add the readers to a selector."""
        for reader in self._readers:
            selector.register(reader, selectors.EVENT_READ)

    def forward(self, reader: int) -> bool:
        """Forward what a reader has, up to a limit. Return False if it has nothing."""
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return False
        stream = self._readers[reader]
        if data and stream is not None:
            stream.write(data.decode(errors="replace"))
            stream.flush()
        return bool(data)

    def drain(self) -> None:
        """Forward the rest of what the call wrote before its result."""
        for reader in self._readers:
            while self.forward(reader):
                pass

    def close_writers(self) -> None:
        """Close this process's writers; the sandbox has its own."""
        while self.writers:
            os.close(self.writers.pop())

    def close(self) -> None:
        """Close all descriptors."""
        self.close_writers()
        while self._readers:
            os.close(self._readers.popitem()[0])
