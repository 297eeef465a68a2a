"""Leases that may end with their process, and not with the last use of their objects.

Whoever takes a result over takes over its lease, too, but it takes a moment until the lease's owner
knows. A producer that is killed in that moment cuts the lease off: nobody can tell whether its end
is the end of the result. What was published by a process that ended without a word, and not read by
another one before, is therefore kept when its lease ends: at worst too long.

The producer of a stream's item keeps the lease itself until somebody has read the item: only a
reader has it for sure from its owner.
"""

from zerrow_store.node.connection import Connection


class Settling:
    """Objects whose leases hang on their producers, and of those, what lost its producer.

    The producers in `_waiting` are to be told of the first reader.
    """

    def __init__(self) -> None:
        self._producers: dict[bytes, Connection] = {}
        self._unread: dict[Connection, set[bytes]] = {}
        self._waiting: set[bytes] = set()
        self._cut: set[bytes] = set()

    def published(self, producer: Connection, object_id: bytes) -> None:
        """Note that an object's lease is known from its producer alone."""
        self._forget(object_id)  # it may have come back by another connection
        self._producers[object_id] = producer
        self._unread.setdefault(producer, set()).add(object_id)

    def began(self, producer: Connection, object_id: bytes) -> None:
        """Note that the producer keeps the lease until it is told."""
        self._cut.discard(object_id)  # its producer was only away
        self.published(producer, object_id)
        self._waiting.add(object_id)

    def over(self, object_id: bytes) -> None:
        """Note that the producer does so no more."""
        self._waiting.discard(object_id)

    def read(self, object_id: bytes, reader: Connection) -> Connection | None:
        """Note that an object is read; returns its producer if that is to be told."""
        producer = self._producers.get(object_id)
        if producer is None or producer is reader:
            return None
        waits = object_id in self._waiting
        self._forget(object_id)
        return producer if waits else None

    def left(self, producer: Connection) -> None:
        """Note that a process ends as it should: others have the leases of what it published."""
        for object_id in tuple(self._unread.get(producer, ())):
            self._forget(object_id)

    def ended(self, producer: Connection) -> None:
        """Note that a connection has ended."""
        for object_id in tuple(self._unread.pop(producer, ())):
            self._forget(object_id)
            self._cut.add(object_id)

    def gone(self, object_id: bytes) -> None:
        """Note that an object is gone."""
        self._forget(object_id)
        self._cut.discard(object_id)

    def may_be_cut(self, object_id: bytes) -> bool:
        """Whether a lease that ends now may have been cut off."""
        return object_id in self._cut

    def _forget(self, object_id: bytes) -> None:
        self._waiting.discard(object_id)
        producer = self._producers.pop(object_id, None)
        if producer in self._unread:
            self._unread[producer].discard(object_id)
