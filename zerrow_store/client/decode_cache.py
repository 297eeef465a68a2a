"""The client's side of the deserialization cache's requests.

A read has a token; its claims end by publication, by failure, by release, or with the connection.
What an answer hands out is held: whoever gets it makes a hold of it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from zerrow_store.client.holds import Hold, Moved
from zerrow_store.client.requests import Request, moved_places
from zerrow_store.native import _native
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Unit
from zerrow_store.protocol.replies import CacheOpened
from zerrow_store.protocol.reports import CacheEntry


@dataclass(frozen=True)
class CacheHit:
    """Decoded parts of the wanted unit `index`, in an object that `hold` keeps.

    layout: (part, number of chunks) in the object's order; parts: those that were wanted. moved: as
    a hold has it.
    """

    index: int
    message: bytes
    layout: list[tuple[int, int]]
    parts: list[int]
    moved: Moved
    hold: Hold


@dataclass(frozen=True)
class CacheAnswer:
    """hits; (index, parts) that are the caller's to decode; (index, parts, pid) to ask for again,
    which process pid decodes, or (pid 0) nobody as yet.
    """

    hits: list[CacheHit]
    granted: list[tuple[int, list[int]]]
    later: list[tuple[int, list[int], int]]


@dataclass(frozen=True)
class DecodedColumn:
    """What a reader publishes of one unit; `object_id` is a new one."""

    unit: Unit
    layout: list[list[int]]
    seconds: float
    object_id: bytes
    encoded: _native.Encoded

    def message(self) -> m.Column:
        """As it travels."""
        e = self.encoded
        counters = (e.bytes_shared, e.bytes_reshared, e.bytes_copied)
        layout = [(part, chunks) for part, chunks in self.layout]
        column = (self.unit, layout, self.seconds, self.object_id)
        return m.Column(*column, e.own, e.foreign, e.message, counters)


class DecodeCacheCalls(ABC):
    """The part of `Client` that speaks to the cache."""

    @abstractmethod
    def _request(self, message: m.Request) -> Any: ...

    @abstractmethod
    def _begin_publication(self, message: m.CachePublish) -> Request: ...

    @abstractmethod
    def _wait(self, request: Request) -> Any: ...

    @abstractmethod
    def _send_quietly(self, message: m.Request) -> None: ...

    def cache_open(
        self,
        token: bytes,
        file: bytes,
        path: str,
        wanted: list[tuple[Unit, list[int]]],
        most: int,
    ) -> CacheAnswer:
        """Ask for parts of units of a file; waits while others decode all that is missing.

        most: how many units the caller wants to be given to decode at a time.
        Raises DecodeError when the one who decodes fails.
        """
        request = m.CacheOpen(token, file, path, wanted, most)
        opened: CacheOpened
        opened, holds = self._request(request)
        hits = [
            CacheHit(hit.index, hit.message, hit.layout, hit.parts, moved_places(hit.moves), hold)
            for hit, hold in zip(opened.hits, holds, strict=True)
        ]
        return CacheAnswer(hits, opened.granted, opened.later)

    def cache_publish(
        self, token: bytes, file: bytes, path: str, columns: list[DecodedColumn]
    ) -> list[Hold | None]:
        """Give decoded columns to the cache; returns a hold of each, None for what does not fit.

        What the cache does not take is the caller's alone.
        """
        message = m.CachePublish(token, file, path, [column.message() for column in columns])
        holds: list[Hold | None] = self._wait(self._begin_publication(message))
        return holds

    def cache_fail(
        self, token: bytes, file: bytes, failed: list[tuple[Unit, list[int]]], error: Exception
    ) -> None:
        """Give up claims because decoding fails; whoever waits is told."""
        reason = (type(error).__name__, str(error))
        self._send_quietly(m.CacheFail(token, file, failed, reason))

    def cache_release(self, token: bytes) -> None:
        """Give up a read's claims; the next who waits decodes."""
        self._send_quietly(m.CacheRelease(token))

    def cache_list(self) -> list[CacheEntry]:
        """Return the cache's entries."""
        entries: list[CacheEntry] = self._request(m.CacheList())
        return entries

    def cache_drop(self, path: str | None = None) -> int:
        """Drop the entries of a file, or all; returns how many. Views of them stay."""
        dropped: int = self._request(m.CacheDrop(path))
        return dropped
