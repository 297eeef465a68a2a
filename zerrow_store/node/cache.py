"""The server's side of the deserialization cache: hits, claims, admission and eviction.

What is decoded lies in the readers' arenas and is published as store objects; `cache_index` says
what they hold. A part that is not there is *claimed* by the first who asks for it. Whoever gets
claims decodes these before waiting for those of others, so nobody waits in a circle. A claim is its
connection's: it ends with that, and the next who waits has it at once. Claims and waiting requests
are not in the books: after a restart the waiting send their requests again, and a decoder publishes
with or without a claim.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from zerrow_store.errors import DecodeError, ProtocolError, StoreFullError, ZerrowError
from zerrow_store.node.books import Books, Object, Packed
from zerrow_store.node.cache_index import Unit
from zerrow_store.node.connection import DEFERRED, Connection

logger = logging.getLogger("zerrow_store.server")

REQUESTS = {
    "cache_open": "open",
    "cache_publish": "publish",
    "cache_fail": "fail",
    "cache_release": "release",
    "cache_list": "list_entries",
    "cache_drop": "drop",
}
"""The requests, and who handles them: given request id, connection and body."""

_Key = tuple[bytes, Unit, int]


@dataclass(eq=False)
class _Waiter:
    connection: Connection
    request_id: int
    token: bytes
    file: bytes
    wanted: list[tuple[Unit, list[int]]]
    most: int


class Cache:
    """See the module. What it needs of the server it is given."""

    def __init__(
        self,
        books: Books,
        holders: Counter[bytes],
        *,
        hold: Callable[[Connection, bytes], Object],
        change: Callable[[str, list[Any]], Any],
        delete: Callable[[bytes], None],
        admit: Callable[..., list[Any]],
        answer: Callable[[Connection, int, Any], None],
        decoded: Callable[[bytes, Unit, frozenset[int], float], None],
        make_room: Callable[[int], bool],
        adopt: Callable[[Connection, Sequence[tuple[bytes, int]]], list[bytes]],
        settle: Callable[[list[bytes]], None],
    ) -> None:
        self._books = books
        self._holders = holders
        self._hold = hold
        self._change = change
        self._delete = delete
        self._admit = admit
        self._answer = answer
        self._decoded = decoded
        self._make_room = make_room
        self._adopt = adopt
        self._settle = settle
        self._claims: dict[_Key, tuple[Connection, bytes]] = {}
        self._claimed: defaultdict[Connection, set[_Key]] = defaultdict(set)
        self._waiting: dict[bytes, list[_Waiter]] = {}

    # --- requests ---

    def open(
        self,
        request_id: int,
        connection: Connection,
        token: bytes,
        file: bytes,
        path: str,
        wanted: list[Any],
        most: int,
    ) -> Any:
        """Answer what is there, what the caller is to decode, and what to ask for again later.

        Waits while there is nothing to decode and others are decoding. `token` names the read;
        it is given `most` units at a time to decode, so that readers at once share the work.
        """
        if not (isinstance(file, bytes) and isinstance(token, bytes) and isinstance(path, str)):
            raise ProtocolError("a file's identity and a read's token are bytes, a path is text")
        if type(most) is not int or most < 1:
            raise ProtocolError("a reader decodes one unit at least")
        for object_id in self._books.cache.outdated(file, path):
            self._delete(object_id)
        units = [(_unit(unit), _parts(parts)) for unit, parts in wanted]
        waiter = _Waiter(connection, request_id, token, file, units, most)
        reply = self._collect(waiter)
        if reply is None:
            self._waiting.setdefault(file, []).append(waiter)
            return DEFERRED
        return reply

    def publish(
        self,
        _: int,
        connection: Connection,
        token: bytes,
        file: bytes,
        path: str,
        columns: list[Any],
        adopted: Sequence[tuple[bytes, int]] = (),
    ) -> list[bool]:
        """Take decoded columns in; answers which were taken. The caller holds these.

        adopted: segments of no process that come with them.
        """
        segments = self._adopt(connection, adopted)
        try:
            return self._publish(connection, token, file, path, columns)
        finally:
            self._settle(segments)

    def _publish(
        self, connection: Connection, token: bytes, file: bytes, path: str, columns: list[Any]
    ) -> list[bool]:
        if not (isinstance(file, bytes) and isinstance(path, str)):
            raise ProtocolError("a file's identity is bytes, a path is text")
        for unit, layout, seconds, _, _, _, message, _ in columns:
            parts = _parts([part for part, _ in layout])
            if not parts or len(set(parts)) < len(parts) or not _parts([n for _, n in layout]):
                raise ProtocolError("a layout is distinct parts and their numbers of chunks")
            if not (isinstance(message, bytes) and isinstance(seconds, float) and _unit(unit)):
                raise ProtocolError("a column has a message, and took seconds to decode")
        admitted = [self._enter(connection, file, path, *column) for column in columns]
        refused: set[_Key] = set()
        for accepted, (unit, layout, *_) in zip(admitted, columns, strict=True):
            keys = {(file, _unit(unit), part) for part, _ in layout}
            self._unclaim(keys, connection, token)
            if not accepted:
                refused |= keys
        self._wake(file, refused)
        return admitted

    def fail(
        self,
        _: int,
        connection: Connection,
        token: bytes,
        file: bytes,
        failed: list[Any],
        error: list[str],
    ) -> None:
        """Give up claims whose decoding fails; whoever waits for one is told why."""
        keys = {(file, _unit(unit), part) for unit, parts in failed for part in _parts(parts)}
        kind, message = error
        reason = DecodeError(str(kind), str(message))
        self._unclaim(keys, connection, token)
        for waiter in list(self._waiting.get(file, ())):
            if waiter not in self._waiting.get(file, ()):
                continue  # its connection ended while another was told
            if keys & {(file, unit, part) for unit, parts in waiter.wanted for part in parts}:
                self._forget(waiter)
                self._answer(waiter.connection, waiter.request_id, reason)
        self._wake(file)

    def release(self, _: int, connection: Connection, token: bytes) -> None:
        """Give up all claims of a read."""
        self._give_up({k for k in self._claimed[connection] if self._claims[k][1] == token})

    def list_entries(self, _: int, connection: Connection) -> list[Any]:
        """Answer all entries."""
        books, holders = self._books, self._holders
        return [
            [
                object_id,
                entry.path,
                *entry.unit,
                len(entry.layout),
                books.objects[object_id].nbytes,
                holders[object_id],
                entry.hits,
                entry.seconds,
                books.objects[object_id].created,
                entry.used,
            ]
            for object_id, entry in books.cache.entries.items()
        ]

    def drop(self, _: int, connection: Connection, path: str | None) -> int:
        """Delete the entries of a file, or all; answers how many."""
        objects = self._books.cache.objects_at(path)
        for object_id in objects:
            self._delete(object_id)
        return len(objects)

    # --- what the server tells ---

    def dropped(self, connection: Connection) -> None:
        """A connection has ended: its claims are the next one's."""
        for waiters in list(self._waiting.values()):
            for waiter in [w for w in waiters if w.connection is connection]:
                self._forget(waiter)
        self._give_up(self._claimed.pop(connection, set()))

    # --- claims ---

    def _collect(self, waiter: _Waiter) -> list[Any] | None:
        """Return hits, claims granted, and the rest; None if there is only to wait."""
        found: list[dict[bytes, list[int]]] = []
        granted: list[list[Any]] = []
        held, later = [], []
        for index, (unit, parts) in enumerate(waiter.wanted):
            there = self._books.cache.parts(waiter.file, unit)
            hits: dict[bytes, list[int]] = {}
            free, taken = [], []
            decoder = 0
            for part in parts:
                if object_id := there.get(part):
                    hits.setdefault(object_id, []).append(part)
                elif claim := self._claims.get((waiter.file, unit, part)):
                    taken.append(part)
                    decoder = claim[0].pid
                else:
                    free.append(part)
            found.append(hits)
            if free and len(granted) < waiter.most:
                granted.append([index, free])
            elif free:
                later.append([index, free, 0])
            if taken:
                held.append([index, taken, decoder])
        if held and not granted:
            return None
        self._claim(waiter, granted)
        return [self._take(waiter.connection, found), granted, [*later, *held]]

    def _take(self, connection: Connection, found: list[dict[bytes, list[int]]]) -> list[Any]:
        entries = self._books.cache.entries
        answer = []
        for index, hits in enumerate(found):
            for object_id, parts in hits.items():
                entry = self._hold(connection, object_id)
                hit = [index, object_id, entry.message, entries[object_id].layout, parts]
                answer.append([*hit, entry.places()])
        if answer:
            self._change("cache_used", [[hit[1] for hit in answer], time.time()])
        return answer

    def _claim(self, waiter: _Waiter, granted: list[Any]) -> None:
        for index, parts in granted:
            for part in parts:
                key = (waiter.file, waiter.wanted[index][0], part)
                self._claims[key] = (waiter.connection, waiter.token)
                self._claimed[waiter.connection].add(key)

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
            if waiter not in self._waiting.get(file, ()):
                continue
            reply = self._collect_refused(waiter, refused) if refused else None
            reply = self._collect(waiter) if reply is None else reply
            if reply is not None:
                self._forget(waiter)
                self._answer(waiter.connection, waiter.request_id, reply)

    def _collect_refused(self, waiter: _Waiter, refused: Set[_Key]) -> list[Any] | None:
        """Return only what is refused, as granted without a claim; the rest is asked for again."""
        granted, held = [], []
        for index, (unit, parts) in enumerate(waiter.wanted):
            own = [part for part in parts if (waiter.file, unit, part) in refused]
            rest = [part for part in parts if (waiter.file, unit, part) not in refused]
            if own:
                granted.append([index, own])
            if rest:
                held.append([index, rest, 0])
        return [[], granted, held] if granted else None

    def _forget(self, waiter: _Waiter) -> None:
        self._waiting[waiter.file].remove(waiter)
        if not self._waiting[waiter.file]:
            del self._waiting[waiter.file]

    # --- admission ---

    def _enter(
        self,
        connection: Connection,
        file: bytes,
        path: str,
        unit: list[str],
        layout: list[list[int]],
        seconds: float,
        object_id: bytes,
        own: bytes,
        foreign: Packed,
        message: bytes,
        counters: list[int],
    ) -> bool:
        if object_id not in self._books.objects:  # else it is sent again after a restart
            there = self._books.cache.parts(file, _unit(unit))
            if any(part in there for part, _ in layout):
                return False
            self._decoded(file, _unit(unit), frozenset(part for part, _ in layout), seconds)
            put = self._admitted(connection, path, object_id, own, foreign, message, counters)
            if put is None:
                return False
            entry = [file, path, list(_unit(unit)), layout, seconds, 0, time.time()]
            self._change("cache", [put, entry])
        self._hold(connection, object_id)
        return True

    def _admitted(self, connection: Connection, path: str, *column: Any) -> list[Any] | None:
        """Return the event that enters a column; None if it does not fit, also after what can be
        dropped at once. A decoder does not wait for the disk.
        """
        for last in (False, True):
            try:
                return self._admit(connection, *column)
            except ProtocolError:
                raise
            except StoreFullError as error:
                if last or not self._make_room(error.needed):
                    return None
            except ZerrowError as error:
                logger.warning("a decoded column of %s is not cached: %s", path, error)
                return None
        return None


def _parts(parts: list[int]) -> list[int]:
    if any(type(part) is not int or part < 0 for part in parts):
        raise ProtocolError("a part is a number")
    return parts


def _unit(unit: list[str]) -> Unit:
    variant, column = unit
    if not (isinstance(variant, str) and isinstance(column, str)):
        raise ProtocolError("a unit is a variant and a column")
    return variant, column
