"""The server's side of the cache of decoded columns: its claims, and who waits for them.

Decoded columns lie in the readers' arenas and are published as store objects (`decoded_columns`). A
part that is missing is *claimed* by the first read that asks for it. A reader decodes what it has
claimed before it waits for the claims of others, so nobody waits in a circle. A claim belongs to a
connection and ends with it; the next read that waits gets it at once. Claims and waiting requests
are not in the object table: after a restart the clients send their requests again, and a decoder
publishes with or without a claim.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from zerrow_store.errors import DecodeError
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import CacheOpened
from zerrow_store.server.admission import Admission
from zerrow_store.server.claims import Claims, Part
from zerrow_store.server.connection import DEFERRED, Call, Connection
from zerrow_store.server.decoded_columns import DecodedColumns
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.sealed_segments import SealedSegments
from zerrow_store.server.state import State

_Granted = tuple[int, list[int]]


@dataclass(eq=False)
class _Waiter:
    call: Call
    request: m.CacheOpen


class DecodeCache:
    """See the module."""

    def __init__(
        self,
        state: State,
        lifetimes: Lifetimes,
        columns: DecodedColumns,
        admission: Admission,
        sealed: SealedSegments,
    ) -> None:
        self._table = state.table
        self._effects = state.effects
        self._lifetimes = lifetimes
        self._columns = columns
        self._admission = admission
        self._sealed = sealed
        self._claims = Claims()
        self._waiting: dict[bytes, list[_Waiter]] = {}

    # --- requests ---

    def open(self, call: Call, request: m.CacheOpen) -> Any:
        """Answer what is there, what the caller is to decode, and what to ask for again later.

        Waits while there is nothing to decode and others are decoding. `token` names the read;
        it is given `most` units at a time to decode, so that readers at once share the work.
        """
        for object_id in self._table.cache.outdated(request.file, request.path):
            self._lifetimes.delete(object_id)
        waiter = _Waiter(call, request)
        reply = self._collect(waiter)
        if reply is None:
            self._waiting.setdefault(request.file, []).append(waiter)
            return DEFERRED
        return reply

    def publish(self, call: Call, request: m.CachePublish) -> list[bool]:
        """Take decoded columns in; answers which were taken. The caller holds these."""
        for column in request.columns:
            self._admission.check_own(call.connection, column.own)
        segments = self._sealed.take_over(call, request.sealed)
        try:
            return self._publish(call.connection, request)
        finally:
            self._sealed.release(segments)

    def _publish(self, connection: Connection, request: m.CachePublish) -> list[bool]:
        admitted = [self._columns.enter(connection, request, column) for column in request.columns]
        refused: set[Part] = set()
        for accepted, column in zip(admitted, request.columns, strict=True):
            keys = {(request.file, column.unit, part) for part, _ in column.layout}
            self._claims.end(keys, connection, request.token)
            if not accepted:
                refused |= keys
        self._wake(request.file, refused)
        return admitted

    def fail(self, call: Call, request: m.CacheFail) -> None:
        """Give up claims whose decoding fails; whoever waits for one is told why."""
        keys = {(request.file, unit, part) for unit, parts in request.failed for part in parts}
        reason = DecodeError(*request.error)
        self._claims.end(keys, call.connection, request.token)
        for waiter in list(self._waiting.get(request.file, ())):
            wanted = waiter.request.wanted
            if keys & {(request.file, unit, part) for unit, parts in wanted for part in parts}:
                self._forget(waiter)
                self._effects.refuse(waiter.call, reason)
        self._wake(request.file)

    def release(self, call: Call, request: m.CacheRelease) -> None:
        """Give up all claims of a read."""
        self._wake_all(self._claims.end_read(call.connection, request.token))

    # --- what the server tells ---

    def dropped(self, connection: Connection) -> None:
        """A connection has ended: its claims are the next one's."""
        for waiters in list(self._waiting.values()):
            for waiter in [w for w in waiters if w.call.connection is connection]:
                self._forget(waiter)
        self._wake_all(self._claims.end_connection(connection))

    # --- answers ---

    def _collect(self, waiter: _Waiter) -> CacheOpened | None:
        """Return hits, claims granted, and the rest; None if there is only to wait."""
        found: list[dict[bytes, list[int]]] = []
        granted: list[_Granted] = []
        held, later = [], []
        file = waiter.request.file
        for index, (unit, parts) in enumerate(waiter.request.wanted):
            there = self._table.cache.parts(file, unit)
            hits: dict[bytes, list[int]] = {}
            free, taken = [], []
            decoder = 0
            for part in parts:
                if object_id := there.get(part):
                    hits.setdefault(object_id, []).append(part)
                elif holder := self._claims.holder((file, unit, part)):
                    taken.append(part)
                    decoder = holder.pid
                else:
                    free.append(part)
            found.append(hits)
            if free and len(granted) < waiter.request.most:
                granted.append((index, free))
            elif free:
                later.append((index, free, 0))
            if taken:
                held.append((index, taken, decoder))
        if held and not granted:
            return None
        self._claim(waiter, granted)
        held_now = self._columns.take(waiter.call.connection, found)
        return CacheOpened(held_now, granted, [*later, *held])

    def _claim(self, waiter: _Waiter, granted: list[_Granted]) -> None:
        request = waiter.request
        for index, parts in granted:
            self._columns.counts["misses"] += len(parts)
            for part in parts:
                key = (request.file, request.wanted[index][0], part)
                self._claims.claim(key, waiter.call.connection, request.token)

    def _wake_all(self, parts: set[Part]) -> None:
        for file in {file for file, _, _ in parts}:
            self._wake(file)

    def _wake(self, file: bytes, refused: Set[Part] = frozenset()) -> None:
        """Answer who need not wait any longer, the longest waiting first.

        refused: what the store cannot hold; all who wait for it decode it themselves, at once.
        """
        for waiter in list(self._waiting.get(file, ())):
            reply = self._collect_refused(waiter, refused) if refused else None
            reply = self._collect(waiter) if reply is None else reply
            if reply is not None:
                self._forget(waiter)
                self._effects.reply(waiter.call, reply)

    def _collect_refused(self, waiter: _Waiter, refused: Set[Part]) -> CacheOpened | None:
        """Return only what is refused, as granted without a claim; the rest is asked for again."""
        granted: list[_Granted] = []
        later: list[tuple[int, list[int], int]] = []
        file = waiter.request.file
        for index, (unit, parts) in enumerate(waiter.request.wanted):
            own = [part for part in parts if (file, unit, part) in refused]
            rest = [part for part in parts if (file, unit, part) not in refused]
            if own:
                self._columns.counts["misses"] += len(own)
                granted.append((index, own))
            if rest:
                later.append((index, rest, 0))
        return CacheOpened([], granted, later) if granted else None

    def _forget(self, waiter: _Waiter) -> None:
        file = waiter.request.file
        self._waiting[file].remove(waiter)
        if not self._waiting[file]:
            del self._waiting[file]
