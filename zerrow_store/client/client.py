"""What a process asks of a node store: putting, getting and deleting objects, and their parts.

`Client` is safe to use from any thread.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from zerrow_store import errors
from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.client import spill_reader
from zerrow_store.client.decode_cache import DecodeCache
from zerrow_store.client.hold_requests import GetRequest, Holding, HoldRequest
from zerrow_store.client.holds import Hold, Moved, moved_places
from zerrow_store.client.publications import Publication, offsets_of, publish, put_message
from zerrow_store.client.requests import Request, check_id, check_ids, check_name
from zerrow_store.client.segments import MappedSegments, fetch
from zerrow_store.client.session import Owner, Session
from zerrow_store.native import _native
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.messages import Carrier
from zerrow_store.protocol.places import Place, unpack
from zerrow_store.protocol.replies import Found
from zerrow_store.protocol.reports import (
    CacheEntry,
    Eviction,
    MemoryReport,
    ObjectInfo,
    SegmentMemory,
    StoreStats,
)

Allocations = list[tuple[bytes, int, int]]


class Client:
    """A connection to the store `name`. Raises StoreUnavailableError if none is running.

    owner: given if this process may own what others publish. missed: called now and then while the
    store is away for long, to start it again.

    Attributes
    ----------
    decode_cache
        The node's cache of decoded columns.
    """

    def __init__(
        self,
        name: str,
        *,
        owner: Owner | None = None,
        missed: Callable[[], None] | None = None,
    ) -> None:
        self._open(Session(name, MappedSegments(), owner=owner, missed=missed))

    def _open(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection
        self.decode_cache = DecodeCache(session.connection, session.pins)
        session.open()

    @property
    def name(self) -> str:
        """The store's name."""
        return self._connection.name

    @property
    def closed(self) -> bool:
        """Whether this client was closed."""
        return self._connection.closed

    def close(self) -> None:
        """Disconnect. Views stay valid only as long as somebody else holds their objects."""
        self._connection.close()

    def put(self, obj: Any, *, object_id: bytes | None = None, name: str | None = None) -> bytes:
        """Store Arrow data.

        Parameters
        ----------
        obj
            Table, RecordBatch, ChunkedArray or Array, or anything that exports an Arrow stream
            (polars, duckdb, nanoarrow), which is stored as a Table.
        object_id
            By default a new one.
        name
            Under which any process finds the object with `get_named`. It is the store's, as all
            objects are that are put: it stays until it is deleted or replaced, or the store ends.
            A second put under a name replaces the object, at once for all processes; what they have
            got of the one before stays as it is. If the put fails, the object before stays.

        Returns
        -------
        bytes
            The object's id.

        Raises
        ------
        StoreFullError, ObjectExistsError, TypeError, ValueError
        """
        if object_id is not None:
            check_id(object_id)
        if name is not None:
            check_name(name)
        if not isinstance(obj, ARROW_DATA):
            if not hasattr(obj, "__arrow_c_stream__"):
                raise TypeError(f"not Arrow data: {type(obj).__name__}")
            obj = pa.table(obj)
        object_id = os.urandom(16) if object_id is None else object_id
        encoded = _native.encode(obj, move=True)
        self.publish(object_id, encoded, encoded.message, name=name)
        return object_id

    def get(self, object_id: bytes) -> Any:
        """Return an object's data, read-only, where it lies; it stays until the last view is gone.

        Raises ObjectNotFoundError.
        """
        found, hold = self._found(object_id)
        if found.message is None:
            raise errors.ObjectNotFoundError(object_id)
        return self.decode(found.message, hold, moved_places(found.moves))

    def _found(self, object_id: bytes) -> tuple[Found, Hold]:
        """Return an object's entry, and what keeps it. Raises ObjectNotFoundError."""
        check_id(object_id)
        connection = self._connection
        request = connection.send(GetRequest(m.Get(object_id), connection))
        found: tuple[Found, Hold] = connection.wait(request)
        return found

    def get_named(self, name: str) -> Any:
        """Return the data of the object that has a name, as `get` does.

        Raises ObjectNotFoundError.
        """
        while True:
            object_id = self._named(name)
            # It may be replaced before it is held: then another one has the name.
            with contextlib.suppress(errors.ObjectNotFoundError):
                return self.get(object_id)

    def delete_named(self, name: str) -> None:
        """Delete the object that has a name. Raises as `delete` does."""
        while True:
            object_id = self._named(name)
            with contextlib.suppress(errors.ObjectNotFoundError):
                return self.delete(object_id)

    def _named(self, name: str) -> bytes:
        check_name(name)
        object_id: bytes = self._connection.request(m.Named(name))
        return object_id

    def delete(self, object_ids: bytes | Iterable[bytes], *, missing_ok: bool = False) -> None:
        """Delete objects. Their memory goes when the last view does.

        Raises ObjectNotFoundError, with nothing deleted; StoreUnavailableError, and they are
        deleted as soon as the store is back.
        """
        if isinstance(object_ids, bytes):
            object_ids = [object_ids]
        self._connection.request(m.Delete(check_ids(object_ids), missing_ok))

    def cache_list(self) -> list[CacheEntry]:
        """Return what is in the node's cache of decoded columns."""
        return self.decode_cache.entries()

    def cache_drop(self, path: str | None = None) -> int:
        """Drop the cache's entries of a file, or all; return how many. Views of them stay."""
        return self.decode_cache.drop(path)

    def list(self) -> list[ObjectInfo]:
        """Return the objects in the store."""
        objects: list[ObjectInfo] = self._connection.request(m.List())
        return objects

    def stats(self) -> StoreStats:
        """Return the store's figures."""
        stats: StoreStats = self._connection.request(m.Stats())
        return stats

    def memory(self) -> MemoryReport:
        """Return what the store's memory is used for."""
        report: MemoryReport = self._connection.request(m.Memory())
        return report

    def memory_by_segment(self) -> tuple[SegmentMemory, ...]:
        """Return what each segment is used for: those of processes, sealed ones, files on disk."""
        return tuple(self._connection.request(m.MemoryBySegment()))

    def evictions(self) -> tuple[Eviction, ...]:
        """Return the newest evictions, the oldest first, since the store was last started."""
        return tuple(self._connection.request(m.Evictions()))

    def report(self, what: m.Report) -> Any:
        """Return a report of the store."""
        return self._connection.request(m.REQUESTS[what]())

    def carried(self, object_ids: Iterable[bytes], reference: bytes) -> None:
        """Say which reference carries objects that this process owns, for people to find them by.
        Does not wait.
        """
        self._connection.notify(m.Carried(check_ids(object_ids), reference))

    def spill_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Have objects that are there spilled as soon as nobody reads them, whether memory is short
        or not: somebody knows that it will be. Who reads one before that takes it back.
        """
        self._connection.notify(m.SpillAhead(check_ids(object_ids)))

    def read_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Have what of these objects is on disk read into memory: somebody is about to read it."""
        self._connection.notify(m.ReadAhead(check_ids(object_ids)))

    def count_sandbox(self, increments: dict[str, int]) -> None:
        """Add to the figures of this machine's sandboxes, by the names of SandboxStats."""
        self._connection.notify(m.Count("sandbox", increments))

    def count_transfer(self, **increments: int) -> None:
        """Add to the figures of this machine's transfers, by their names in StoreStats."""
        self._connection.notify(m.Count("transfers", increments))

    def record_rollback(self, name: str, nbytes: int, expected: float, seconds: float) -> None:
        """Enter a result that was dropped and made again into the list of evictions."""
        self._connection.notify(m.Evicted(name, nbytes, expected, seconds))

    # --- below: for those who carry messages themselves ---

    def publish(
        self,
        object_id: bytes,
        encoded: _native.Encoded,
        message: bytes | None = None,
        *,
        owned: bool = False,
        carrier: Carrier | None = None,
        name: str | None = None,
    ) -> None:
        """Enter an encoded message's allocations into the object table.

        message: kept for `get`, if given. An owned object goes when this process ends, one with a
        carrier when the process does that owns that, if they were not deleted before.
        On failure the allocations are unpinned. Raises StoreFullError, ObjectExistsError,
        ObjectLostError, NoOwnerError.
        """
        put = put_message(object_id, encoded, message, owned=owned, carrier=carrier, name=name)
        self._connection.wait(self._sent(put))

    def begin_publish(
        self,
        object_id: bytes,
        encoded: _native.Encoded,
        message: bytes | None = None,
        *,
        owned: bool = False,
        carrier: Carrier | None = None,
    ) -> Publication:
        """Do as `publish` does, but leave it to the caller to wait."""
        put = put_message(object_id, encoded, message, owned=owned, carrier=carrier)
        return Publication(self._connection, self._sent(put))

    def publish_transient(self, object_id: bytes, encoded: _native.Encoded) -> Hold:
        """Enter an encoded message's allocations as an object that goes with its last hold; return
        the first one. On failure the allocations are unpinned. Raises as `publish` does.
        """
        put = put_message(object_id, encoded, None, transient=True)
        # Where it counted already before a crash of the store, the answer and the hold are lost.
        return self._connection.wait(self._sent(put)) or self.hold(object_id)

    def _sent(self, message: m.Put) -> Request:
        return publish(self._connection, self._session.pins, message)

    def discard(self, encoded: Iterable[_native.Encoded]) -> None:
        """Unpin what was encoded and is not going to be published."""
        for message in encoded:
            _native.unpin(offsets_of(message.own))

    def begin_hold(self, object_id: bytes) -> Holding:
        """Ask for a hold of an object: `confirm` it."""
        check_id(object_id)
        request = HoldRequest(m.Hold(object_id), self._connection)
        return Holding(self._connection, self._connection.send(request), request.hold)

    def hold(self, object_id: bytes) -> Hold:
        """Return something that keeps the object in the store until it is collected.

        Raises ObjectNotFoundError.
        """
        holding = self.begin_hold(object_id)
        holding.confirm()
        return holding.hold

    def hold_copy(self, object_id: bytes, allocations: Allocations) -> Hold | None:
        """Return a hold of this machine's copy of another machine's object; None if there is none,
        or not of all these allocations. Its `moved` says where they lie.
        """
        try:
            hold = self.hold(object_id)
        except errors.ObjectNotFoundError:
            return None
        covers = all((segment, offset) in hold.moved for segment, offset, _ in allocations)
        return hold if covers else None

    def allocations(self, object_id: bytes) -> Allocations:
        """Return the allocations (segment, offset, size) of an object, which the caller must
        hold.
        """
        found, _ = self._found(object_id)
        return unpacked(found.allocations)

    def decode(self, message: bytes, hold: Hold, moved: Moved) -> Any:
        """Return a message's data, where it lies; its buffers keep `hold`, which is the object's.

        moved: what the hold says. Raises ObjectLostError, SipcError.
        """
        if not moved:
            segments = _native.message_segments(message)
            self.ensure_segments(segments)
            if spill_reader.concerns(segments):
                places = [(s, o) for s, o, _ in _native.message_allocations(message)]
                self.ensure_places(places, hold)
            return _native.decode(message, hold)
        places = [moved.get((s, o), (s, o)) for s, o, _ in _native.message_allocations(message)]
        self.ensure_places(places, hold)
        return _native.decode(message, hold, places)

    def ensure_places(self, places: Iterable[Place], hold: Hold) -> None:
        """Map the segments of allocations that are about to be read, and check what was spilled,
        unless another hold has. It stays checked as long as `hold` is alive.

        Raises ObjectLostError for a segment that is gone, and for spilled bytes that are not what
        they were.
        """
        places = list(places)
        self.ensure_segments({segment for segment, _ in places})
        checked, files, seconds = spill_reader.check(places)
        hold.checked += checked
        if files:
            self._connection.notify(m.ReadBack(list(files.items()), seconds))

    def ensure_segments(self, segment_ids: Iterable[bytes]) -> None:
        """Have the store send segments that are not here yet. Raises ObjectLostError for one that
        is gone.
        """
        fetch(self._connection, self._session.segments, segment_ids)

    def shutdown(self) -> None:
        """End the store."""
        self._connection.request(m.Shutdown())


def unpacked(allocations: Iterable[tuple[bytes, bytes]]) -> Allocations:
    """Return allocations, packed by segment, as (segment, offset, size)."""
    return [(s, o, size) for s, packed in allocations for o, size in unpack(packed)]
