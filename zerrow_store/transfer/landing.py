"""Memory for an object that is on its way: admitted by the store before the first byte comes.

It is an object of the store from the beginning, under an id that nobody knows yet, and held: so the
budget has it, others wait or are evicted for it, and a store that is too full says so before
anything is sent. It goes with its last hold, so nothing of it is left if this process ends.
"""

import os
from dataclasses import dataclass

import pyarrow as pa

from zerrow_store.client.client import Client
from zerrow_store.client.holds import Hold
from zerrow_store.native import _native
from zerrow_store.protocol.places import Place


@dataclass(frozen=True)
class Landed:
    """An object that is here, as long as `hold` is alive. places: of its allocations, in order."""

    object_id: bytes
    places: list[Place]
    hold: Hold


class Landing:
    """Memory for allocations of these sizes. Raises StoreFullError if they do not fit."""

    def __init__(self, client: Client, sizes: list[int]) -> None:
        buffers = [pa.allocate_buffer(max(size, 1)) for size in sizes]
        encoded = _native.encode_buffers(b"", buffers)
        if encoded.bytes_copied:
            client.discard([encoded])
            raise MemoryError(f"the arena has no room for {sum(sizes):,} bytes")
        self._places = [(s, o) for s, o, _ in _native.message_allocations(encoded.message)]
        self._object_id = os.urandom(16)
        self.targets = [
            memoryview(buffer)[:size] for buffer, size in zip(buffers, sizes, strict=True)
        ]
        self._hold = client.publish_transient(self._object_id, encoded)

    def conclude(self) -> Landed:
        """Return the object, whose bytes are all there."""
        return Landed(self._object_id, self._places, self._hold)
