"""The newest publications of which 1 MiB or more was copied."""

import time
from collections.abc import Iterable
from dataclasses import replace

from zerrow_store.protocol.reports import CopiedTable

_MOST = 1000

_LEAST_BYTES = 1 << 20
"""What goes into messages, as short buffers do, is copied as well, and costs nothing."""


class CopiedTables:
    """See the module."""

    def __init__(self) -> None:
        self._newest: dict[bytes, CopiedTable] = {}

    def add(self, object_id: bytes, reference: bytes | None, pid: int, copied: int) -> None:
        """Note a publication."""
        if copied < _LEAST_BYTES:
            return
        self._newest[object_id] = CopiedTable(time.time(), object_id, reference or b"", pid, copied)
        if len(self._newest) > _MOST:
            del self._newest[next(iter(self._newest))]

    def carried(self, object_ids: Iterable[bytes], reference: bytes) -> None:
        """Note what carries objects, which is known after they were published."""
        for object_id in self._newest.keys() & set(object_ids):
            self._newest[object_id] = replace(self._newest[object_id], reference=reference)

    def rows(self) -> list[CopiedTable]:
        """Return them, the oldest first."""
        return list(self._newest.values())
