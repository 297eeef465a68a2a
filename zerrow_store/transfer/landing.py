"""Memory for an object that is on its way: admitted by the store before the first byte arrives.

From the beginning, the memory is an object of the store, held here, under an id that nobody else
knows. So it counts against the budget, other objects are evicted for it or puts wait for it, and a
store that is too full refuses it before anything is sent. The object is transient: it goes with its
last hold, so nothing is left of it if this process ends.
"""

import os
from dataclasses import dataclass

from zerrow_store.client.client import Client
from zerrow_store.client.holds import Hold
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native
from zerrow_store.protocol.places import Place


@dataclass(frozen=True)
class Landed:
    """An object that has arrived, and stays as long as `hold` is alive.

    places: where its allocations lie, in order.
    """

    object_id: bytes
    places: list[Place]
    hold: Hold


class Landing:
    """Memory for allocations of the given sizes. Raises StoreFullError if they do not fit."""

    def __init__(self, client: Client, sizes: list[int]) -> None:
        buffers = [allocate(max(size, 1)) for size in sizes]
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
        """Return the object, all bytes of which have arrived."""
        return Landed(self._object_id, self._places, self._hold)
