"""The client's requests to the cache of decoded columns.

A read has a token. Its claims end by publication, failure or release, or with the connection. The
store counts a hold for each object in an answer.
"""

from dataclasses import dataclass

from zerrow_store.client.connection import Connection
from zerrow_store.client.hold_requests import GivingRequest
from zerrow_store.client.holds import Hold
from zerrow_store.client.pins import Pins
from zerrow_store.client.publications import counters_of, publish
from zerrow_store.native import _native
from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Unit
from zerrow_store.protocol.places import Moved, moved_places
from zerrow_store.protocol.replies import CacheOpened
from zerrow_store.protocol.reports import CacheEntry


@dataclass(frozen=True)
class CacheHit:
    """Decoded parts of the wanted unit `index`, in an object that `hold` keeps.

    layout: (part, number of chunks) in the object's order. parts: the wanted ones. moved: see
    `Hold`.
    """

    index: int
    message: bytes
    layout: list[tuple[int, int]]
    parts: list[int]
    moved: Moved
    hold: Hold


@dataclass(frozen=True)
class CacheAnswer:
    """The answer to `open`.

    granted: (index, parts) for the caller to decode. later: (index, parts, pid) to ask for again,
    which the process pid decodes; 0 if nobody does yet.
    """

    hits: list[CacheHit]
    granted: list[tuple[int, list[int]]]
    later: list[tuple[int, list[int], int]]


@dataclass(frozen=True)
class DecodedColumn:
    """A decoded column as a reader publishes it, under a new `object_id`."""

    unit: Unit
    layout: list[list[int]]
    seconds: float
    object_id: bytes
    encoded: _native.Encoded

    def message(self) -> m.Column:
        """Return the column as it travels."""
        return m.Column(
            unit=self.unit,
            layout=[(part, chunks) for part, chunks in self.layout],
            seconds=self.seconds,
            object_id=self.object_id,
            own=self.encoded.own,
            foreign=self.encoded.foreign,
            message=self.encoded.message,
            counters=counters_of(self.encoded),
        )


class _Open(GivingRequest):
    """Asks for parts. The objects in the answer are held."""

    message: m.CacheOpen

    def replied(self, reply: CacheOpened, frame: framing.Frame) -> CacheAnswer:
        hits = []
        for hit in reply.hits:
            hold = self._connection.holds.confirm(hit.object_id)
            moved = moved_places(hit.moves)
            hits.append(CacheHit(hit.index, hit.message, hit.layout, hit.parts, moved, hold))
        return CacheAnswer(hits, reply.granted, reply.later)

    def undo(self) -> None:
        self._connection.notify(m.CacheRelease(self.message.token))


class DecodeCache:
    """The node's cache of decoded columns, for its readers."""

    def __init__(self, connection: Connection, pins: Pins) -> None:
        self._connection = connection
        self._pins = pins

    def open(
        self,
        token: bytes,
        file: bytes,
        path: str,
        wanted: list[tuple[Unit, list[int]]],
        most: int,
    ) -> CacheAnswer:
        """Ask for parts of units of a file. Wait while other readers decode everything missing.

        most: how many units the caller will decode at a time. Raises DecodeError if another
        reader's decoding fails.
        """
        request = _Open(m.CacheOpen(token, file, path, wanted, most), self._connection)
        answer: CacheAnswer = self._connection.wait(self._connection.send(request))
        return answer

    def publish(
        self, token: bytes, file: bytes, path: str, columns: list[DecodedColumn]
    ) -> list[Hold | None]:
        """Give decoded columns to the cache; return a hold of each, None for one that does not fit.

        A column that the cache does not take remains the caller's.
        """
        message = m.CachePublish(token, file, path, [column.message() for column in columns])
        holds: list[Hold | None] = self._connection.wait(
            publish(self._connection, self._pins, message)
        )
        return holds

    def fail(
        self, token: bytes, file: bytes, failed: list[tuple[Unit, list[int]]], error: Exception
    ) -> None:
        """Give up claims because decoding fails. Readers that wait for these parts are told."""
        reason = (type(error).__name__, str(error))
        self._connection.notify(m.CacheFail(token, file, failed, reason))

    def release(self, token: bytes) -> None:
        """Give up a read's claims. The next waiting reader gets them."""
        self._connection.notify(m.CacheRelease(token))

    def entries(self) -> list[CacheEntry]:
        """Return the cache's entries."""
        entries: list[CacheEntry] = self._connection.request(m.CacheList())
        return entries

    def drop(self, path: str | None = None) -> int:
        """Drop the entries of a file, or all; return how many. Their views stay valid."""
        dropped: int = self._connection.request(m.CacheDrop(path))
        return dropped
