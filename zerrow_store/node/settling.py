"""Leases that may end with their process, and not with the last use of their objects.

Whoever takes an item of a stream over takes over its lease, too, but until the item's owner knows
of the item, the lease hangs on the item's producer. The producer keeps it until somebody has read
the item: a reader has the item from its owner. If the producer dies before, nobody can tell whether
the lease's end is the end of the item, and what was published is kept: at worst too long.
"""

from zerrow_store.node.connection import Connection


class Settling:
    """Objects whose leases hang on their producers, and of those, what lost its producer."""

    def __init__(self) -> None:
        self._producers: dict[bytes, Connection] = {}
        self._begun: dict[Connection, set[bytes]] = {}
        self._cut: set[bytes] = set()

    def began(self, producer: Connection, object_id: bytes) -> None:
        """Note that an object's lease is in the hands of its producer alone."""
        self._cut.discard(object_id)  # its producer was only away
        self._producers[object_id] = producer
        self._begun.setdefault(producer, set()).add(object_id)

    def over(self, object_id: bytes) -> None:
        """Note that others have it, too."""
        producer = self._producers.pop(object_id, None)
        if producer is not None:
            self._begun[producer].discard(object_id)

    def read(self, object_id: bytes, reader: Connection) -> Connection | None:
        """Note that an object is read; returns its producer if that may let go of the lease now."""
        producer = self._producers.get(object_id)
        if producer is None or producer is reader:
            return None
        self.over(object_id)
        return producer

    def ended(self, producer: Connection) -> None:
        """Note that a connection has ended."""
        for object_id in self._begun.pop(producer, ()):
            del self._producers[object_id]
            self._cut.add(object_id)

    def gone(self, object_id: bytes) -> None:
        """Note that an object is gone."""
        self.over(object_id)
        self._cut.discard(object_id)

    def may_be_cut(self, object_id: bytes) -> bool:
        """Whether a lease that ends now may have been cut off."""
        return object_id in self._cut
