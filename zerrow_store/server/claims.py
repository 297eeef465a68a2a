"""Who decodes what: the claims of the cache of decoded columns, see `decode_cache`."""

from collections import defaultdict
from collections.abc import Iterable

from zerrow_store.protocol.fields import Unit
from zerrow_store.server.connection import Connection

Part = tuple[bytes, Unit, int]
"""A file, one of its units, the number of a part of that."""


class Claims:
    """Each belongs to a connection, and to one of its reads, which has a token."""

    def __init__(self) -> None:
        self._claims: dict[Part, tuple[Connection, bytes]] = {}
        self._claimed: defaultdict[Connection, set[Part]] = defaultdict(set)

    def holder(self, part: Part) -> Connection | None:
        """Return the connection that has claimed a part; None if nobody has."""
        claim = self._claims.get(part)
        return None if claim is None else claim[0]

    def claim(self, part: Part, connection: Connection, token: bytes) -> None:
        """Claim a part that nobody has claimed."""
        self._claims[part] = (connection, token)
        self._claimed[connection].add(part)

    def end(self, parts: Iterable[Part], connection: Connection, token: bytes) -> None:
        """End the claims of a read, of these parts."""
        for part in parts:
            if self._claims.get(part) == (connection, token):
                del self._claims[part]
                self._claimed[connection].discard(part)

    def end_read(self, connection: Connection, token: bytes) -> set[Part]:
        """End all claims of a read; returns of which parts."""
        parts = {part for part in self._claimed[connection] if self._claims[part][1] == token}
        self.end(parts, connection, token)
        return parts

    def end_connection(self, connection: Connection) -> set[Part]:
        """End all claims of a connection that has ended; returns of which parts."""
        parts = self._claimed.pop(connection, set())
        for part in parts:
            del self._claims[part]
        return parts
