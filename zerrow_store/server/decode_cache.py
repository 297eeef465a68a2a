"""The server's side of the deserialization cache: hits, claims, admission and eviction.

Decoded columns lie in the readers' arenas and are published as store objects;
`decode_cache_index` says which object has what. A part that is missing is *claimed* by the first
read that asks for it. A reader decodes what it has claimed before it waits for the claims of
others, so nobody waits in a circle. A claim belongs to a connection and ends with it; the next read
that waits gets it at once. Claims and waiting requests are not in the object table: after a restart
the clients send their requests again, and a decoder publishes with or without a claim.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from zerrow_store.errors import DecodeError, StoreFullError, ZerrowError
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Unit
from zerrow_store.protocol.replies import CacheOpened, Hit
from zerrow_store.protocol.reports import CacheEntry
from zerrow_store.server.connection import DEFERRED, Call, Connection
from zerrow_store.server.eviction import Evictor
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.put_queue import PutQueue
from zerrow_store.server.state import State

logger = logging.getLogger("zerrow_store.server")

_Key = tuple[bytes, Unit, int]
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
        evictor: Evictor,
        put_queue: PutQueue,
    ) -> None:
        self._state = state
        self._table = state.table
        self._effects = state.effects
        self._lifetimes = lifetimes
        self._evictor = evictor
        self._put_queue = put_queue
        self._claims: dict[_Key, tuple[Connection, bytes]] = {}
        self._claimed: defaultdict[Connection, set[_Key]] = defaultdict(set)
        self._waiting: dict[bytes, list[_Waiter]] = {}
        figures = ("hits", "misses", "decoding_seconds", "saved_seconds")
        self.counts = dict.fromkeys(figures, 0.0)
        """Since the server was started; see `StoreStats`."""

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
            self._put_queue.check_own(call.connection, column.own)
        segments = self._put_queue.adopt(call, request.adopted)
        try:
            return self._publish(call.connection, request)
        finally:
            self._put_queue.settle(segments)

    def _publish(self, connection: Connection, request: m.CachePublish) -> list[bool]:
        admitted = [self._enter(connection, request, column) for column in request.columns]
        refused: set[_Key] = set()
        for accepted, column in zip(admitted, request.columns, strict=True):
            keys = {(request.file, column.unit, part) for part, _ in column.layout}
            self._unclaim(keys, connection, request.token)
            if not accepted:
                refused |= keys
        self._wake(request.file, refused)
        return admitted

    def fail(self, call: Call, request: m.CacheFail) -> None:
        """Give up claims whose decoding fails; whoever waits for one is told why."""
        keys = {(request.file, unit, part) for unit, parts in request.failed for part in parts}
        reason = DecodeError(*request.error)
        self._unclaim(keys, call.connection, request.token)
        for waiter in list(self._waiting.get(request.file, ())):
            wanted = waiter.request.wanted
            if keys & {(request.file, unit, part) for unit, parts in wanted for part in parts}:
                self._forget(waiter)
                self._effects.refuse(waiter.call, reason)
        self._wake(request.file)

    def release(self, call: Call, request: m.CacheRelease) -> None:
        """Give up all claims of a read."""
        claimed = self._claimed[call.connection]
        self._give_up({key for key in claimed if self._claims[key][1] == request.token})

    def list_entries(self, call: Call, request: m.CacheList) -> list[CacheEntry]:
        """Answer all entries."""
        table, holders = self._table, self._state.holders
        return [
            CacheEntry(
                object_id,
                entry.path,
                *entry.unit,
                len(entry.layout),
                table.objects[object_id].nbytes,
                holders[object_id],
                entry.hits,
                entry.seconds,
                table.objects[object_id].created,
                entry.used,
            )
            for object_id, entry in table.cache.entries.items()
        ]

    def drop(self, call: Call, request: m.CacheDrop) -> int:
        """Delete the entries of a file, or all; answers how many."""
        objects = self._table.cache.objects_at(request.path)
        for object_id in objects:
            self._lifetimes.delete(object_id)
        return len(objects)

    # --- what the server tells ---

    def dropped(self, connection: Connection) -> None:
        """A connection has ended: its claims are the next one's."""
        for waiters in list(self._waiting.values()):
            for waiter in [w for w in waiters if w.call.connection is connection]:
                self._forget(waiter)
        self._give_up(self._claimed.pop(connection, set()))

    # --- claims ---

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
                elif claim := self._claims.get((file, unit, part)):
                    taken.append(part)
                    decoder = claim[0].pid
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
        held_now = self._take(waiter.call.connection, found)
        return CacheOpened(held_now, granted, [*later, *held])

    def _take(self, connection: Connection, found: list[dict[bytes, list[int]]]) -> list[Hit]:
        entries = self._table.cache.entries
        hits = []
        for index, by_object in enumerate(found):
            for object_id, parts in by_object.items():
                entry, cached = self._lifetimes.take_hold(connection, object_id), entries[object_id]
                assert entry.message is not None  # a `Column` has one
                self.counts["hits"] += len(parts)
                self.counts["saved_seconds"] += cached.seconds * len(parts) / len(cached.layout)
                there = entry.message, cached.layout, parts, entry.moves()
                hits.append(Hit(index, object_id, *there))
        if hits:
            self._state.change(events.ColumnsRead([hit.object_id for hit in hits], time.time()))
        return hits

    def _claim(self, waiter: _Waiter, granted: list[_Granted]) -> None:
        connection, request = waiter.call.connection, waiter.request
        for index, parts in granted:
            self.counts["misses"] += len(parts)
            for part in parts:
                key = (request.file, request.wanted[index][0], part)
                self._claims[key] = (connection, request.token)
                self._claimed[connection].add(key)

    def _unclaim(self, keys: set[_Key], connection: Connection, token: bytes) -> None:
        for key in keys:
            if self._claims.get(key) == (connection, token):
                del self._claims[key]
                self._claimed[connection].discard(key)

    def _give_up(self, keys: set[_Key]) -> None:
        for key in keys:
            connection, _ = self._claims.pop(key)
            if connection in self._claimed:
                self._claimed[connection].discard(key)
        for file in {file for file, _, _ in keys}:
            self._wake(file)

    def _wake(self, file: bytes, refused: Set[_Key] = frozenset()) -> None:
        """Answer who need not wait any longer, the longest waiting first.

        refused: what the store cannot hold; all who wait for it decode it themselves, at once.
        """
        for waiter in list(self._waiting.get(file, ())):
            reply = self._collect_refused(waiter, refused) if refused else None
            reply = self._collect(waiter) if reply is None else reply
            if reply is not None:
                self._forget(waiter)
                self._effects.reply(waiter.call, reply)

    def _collect_refused(self, waiter: _Waiter, refused: Set[_Key]) -> CacheOpened | None:
        """Return only what is refused, as granted without a claim; the rest is asked for again."""
        granted: list[_Granted] = []
        later: list[tuple[int, list[int], int]] = []
        file = waiter.request.file
        for index, (unit, parts) in enumerate(waiter.request.wanted):
            own = [part for part in parts if (file, unit, part) in refused]
            rest = [part for part in parts if (file, unit, part) not in refused]
            if own:
                self.counts["misses"] += len(own)
                granted.append((index, own))
            if rest:
                later.append((index, rest, 0))
        return CacheOpened([], granted, later) if granted else None

    def _forget(self, waiter: _Waiter) -> None:
        file = waiter.request.file
        self._waiting[file].remove(waiter)
        if not self._waiting[file]:
            del self._waiting[file]

    # --- admission ---

    def _enter(self, connection: Connection, request: m.CachePublish, column: m.Column) -> bool:
        file, unit, object_id = request.file, column.unit, column.object_id
        if object_id in self._table.objects:  # sent again after a restart
            known = self._table.cache.entries.get(object_id)
            if known is None or (known.file, known.unit) != (file, unit):
                return False
            self._lifetimes.take_hold(connection, object_id)
            return True
        there = self._table.cache.parts(file, unit)
        if any(part in there for part, _ in column.layout):
            return False
        self._evictor.decoded(
            file, unit, frozenset(part for part, _ in column.layout), column.seconds
        )
        added = self._admitted(connection, request.path, column)
        if added is None:
            return False
        decoded = file, request.path, unit, column.layout, column.seconds
        self._state.change(events.ColumnAdded(added, *decoded, hits=0, used=time.time()))
        self.counts["decoding_seconds"] += column.seconds
        self._lifetimes.take_hold(connection, object_id)
        return True

    def _admitted(
        self, connection: Connection, path: str, column: m.Column
    ) -> events.ObjectAdded | None:
        """Return the event that enters a column; None if it does not fit, also after what can be
        dropped at once. A decoder does not wait for the disk.
        """
        for last in (False, True):
            try:
                return self._put_queue.admit(connection, column)
            except StoreFullError as error:
                if last or not self._evictor.make_room(error.needed):
                    return None
            except ZerrowError as error:
                logger.warning("a decoded column of %s is not cached: %s", path, error)
                return None
        return None
