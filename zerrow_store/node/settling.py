"""Objects whose producers wait for their first reader.

The producer of a stream's item keeps the item's lease until somebody has read it: a reader has the
item from its owner, who then knows of the lease, too.
"""

from zerrow_store.node.connection import Connection


class Settling:
    """The objects by their producers' connections."""

    def __init__(self) -> None:
        self._producers: dict[bytes, Connection] = {}

    def began(self, producer: Connection, object_id: bytes) -> None:
        """Note that a producer is to be told."""
        self._producers[object_id] = producer

    def over(self, object_id: bytes) -> None:
        """Note that the producer waits no more, or that the object is gone."""
        self._producers.pop(object_id, None)

    def read(self, object_id: bytes, reader: Connection) -> Connection | None:
        """Note that an object is read; returns the producer that is to be told."""
        if self._producers.get(object_id) in (None, reader):
            return None
        return self._producers.pop(object_id)

    def ended(self, producer: Connection) -> None:
        """Note that a connection has ended."""
        for object_id in [i for i, each in self._producers.items() if each is producer]:
            del self._producers[object_id]
