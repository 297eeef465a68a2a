"""Decoded columns as objects of the store.

`decode_cache_index` says which object has what; `decode_cache` who decodes what is missing.
"""

import logging
import time

from zerrow_store.errors import StoreFullError, ZerrowError
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import Hit
from zerrow_store.protocol.reports import CacheEntry
from zerrow_store.server.admission import Admission
from zerrow_store.server.connection import Connection
from zerrow_store.server.eviction import Evictor
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.state import State

logger = logging.getLogger("zerrow_store.server")


class DecodedColumns:
    """See the module. counts: since the server was started; see `StoreStats`."""

    def __init__(
        self, state: State, lifetimes: Lifetimes, evictor: Evictor, admission: Admission
    ) -> None:
        self._state = state
        self._table = state.table
        self._lifetimes = lifetimes
        self._evictor = evictor
        self._admission = admission
        figures = ("hits", "misses", "decoding_seconds", "saved_seconds")
        self.counts = dict.fromkeys(figures, 0.0)

    def enter(self, connection: Connection, request: m.CachePublish, column: m.Column) -> bool:
        """Take a column in, which the connection holds then; returns whether it was taken."""
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
        self._state.change(
            events.ColumnAdded(
                added=added,
                file=file,
                path=request.path,
                unit=unit,
                layout=column.layout,
                seconds=column.seconds,
                hits=0,
                used=time.time(),
            )
        )
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
                return self._admission.admit(connection, column)
            except StoreFullError as error:
                if last or not self._evictor.make_room(error.needed):
                    return None
            except ZerrowError as error:
                logger.warning("a decoded column of %s is not cached: %s", path, error)
                return None
        return None

    def take(self, connection: Connection, found: list[dict[bytes, list[int]]]) -> list[Hit]:
        """Hold what was found of each unit that a read wants: parts, by object."""
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

    def entries(self) -> list[CacheEntry]:
        """Return all columns that are there."""
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

    def drop(self, path: str | None) -> int:
        """Delete the columns of a file, or all; returns how many."""
        objects = self._table.cache.objects_at(path)
        for object_id in objects:
            self._lifetimes.delete(object_id)
        return len(objects)
