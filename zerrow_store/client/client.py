"""The client of a node store.

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
from zerrow_store.client.holds import Hold
from zerrow_store.client.publications import Publication, offsets_of, publish, put_message
from zerrow_store.client.requests import Request, check_id, check_ids, check_name
from zerrow_store.client.segments import MappedSegments, fetch
from zerrow_store.client.session import Owner, Session
from zerrow_store.native import _native
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.messages import Carrier
from zerrow_store.protocol.places import Moved, Place, moved_places, unpack
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


# It has many methods because it is the one class that users see of all requests to a store.
class Client:
    """A connection to the store `name`. Raises StoreUnavailableError if none is running.

    owner: given if this process may own objects that other processes publish. missed: called
    repeatedly while the store is away for long, to start it again.

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
        """Disconnect. Views then stay valid only as long as another process holds their objects."""
        self._connection.close()

    def put(self, obj: Any, *, object_id: bytes | None = None, name: str | None = None) -> bytes:
        """Store Arrow data.

        Parameters
        ----------
        obj
            Table, RecordBatch, ChunkedArray or Array, or anything that exports an Arrow stream
            (polars, duckdb, nanoarrow), which is stored as a Table.
        object_id
            By default a new id.
        name
            The name under which any process finds the object with `get_named`. Like any put object,
            it stays until it is deleted or replaced, or until the store ends. A second put under
            the name replaces the object, at once for all processes. Views of the earlier object
            stay as they are. If the put fails, the earlier object keeps the name.

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
        """Return read-only views of an object's data, where it lies in shared memory. The object
        stays until the last view is gone.

        Raises ObjectNotFoundError.
        """
        found, hold = self._found(object_id)
        if found.message is None:
            raise errors.ObjectNotFoundError(object_id)
        return self.decode(found.message, hold, moved_places(found.moves))

    def _found(self, object_id: bytes) -> tuple[Found, Hold]:
        """Return an object's entry, and a hold of it. Raises ObjectNotFoundError."""
        check_id(object_id)
        connection = self._connection
        request = connection.send(GetRequest(m.Get(object_id), connection))
        found: tuple[Found, Hold] = connection.wait(request)
        return found

    def get_named(self, name: str) -> Any:
        """Return the data of the object with this name, as `get` does.

        Raises ObjectNotFoundError.
        """
        while True:
            object_id = self._named(name)
            # If the object is replaced before it is held, another one has the name.
            with contextlib.suppress(errors.ObjectNotFoundError):
                return self.get(object_id)

    def delete_named(self, name: str) -> None:
        """Delete the object with this name. Raises as `delete` does."""
        while True:
            object_id = self._named(name)
            with contextlib.suppress(errors.ObjectNotFoundError):
                return self.delete(object_id)

    def _named(self, name: str) -> bytes:
        check_name(name)
        object_id: bytes = self._connection.request(m.Named(name))
        return object_id

    def delete(self, object_ids: bytes | Iterable[bytes], *, missing_ok: bool = False) -> None:
        """Delete objects. The memory of each is freed when its last view is gone.

        Raises ObjectNotFoundError, in which case nothing is deleted; and StoreUnavailableError, in
        which case the objects are deleted as soon as the store is back.
        """
        if isinstance(object_ids, bytes):
            object_ids = [object_ids]
        self._connection.request(m.Delete(check_ids(object_ids), missing_ok))

    def cache_list(self) -> list[CacheEntry]:
        """Return the entries of the node's cache of decoded columns."""
        return self.decode_cache.entries()

    def cache_drop(self, path: str | None = None) -> int:
        """Drop the cache entries of a file, or all; return how many. Their views stay valid."""
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
        """Return what each segment is used for: arenas, sealed segments, spilled files."""
        return tuple(self._connection.request(m.MemoryBySegment()))

    def evictions(self) -> tuple[Eviction, ...]:
        """Return the latest evictions since the store was last started, in order of time."""
        return tuple(self._connection.request(m.Evictions()))

    def report(self, what: m.Report) -> Any:
        """Return a report of the store."""
        return self._connection.request(m.REQUESTS[what]())

    def carried(self, object_ids: Iterable[bytes], reference: bytes) -> None:
        """Tell the store which reference carries objects of this process, for people to find them
        by. Does not wait.
        """
        self._connection.notify(m.Carried(check_ids(object_ids), reference))

    def spill_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Have objects spilled as soon as nobody reads them, even if memory is not short yet: the
        caller knows that it will be. An object that is read before it is spilled stays in memory.
        """
        self._connection.notify(m.SpillAhead(check_ids(object_ids)))

    def read_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Have the spilled bytes of objects read into memory, because they are needed soon."""
        self._connection.notify(m.ReadAhead(check_ids(object_ids)))

    def count_sandbox(self, increments: dict[str, int]) -> None:
        """Add to the figures of this machine's sandboxes, by the names of SandboxStats."""
        self._connection.notify(m.Count("sandbox", increments))

    def count_transfer(self, **increments: int) -> None:
        """Add to the figures of this machine's transfers, by their names in StoreStats."""
        self._connection.notify(m.Count("transfers", increments))

    def record_rollback(self, name: str, nbytes: int, expected: float, seconds: float) -> None:
        """Record the rollback of a result, which was made again, in the list of evictions."""
        self._connection.notify(m.Evicted(name, nbytes, expected, seconds))

    # --- the low level: for callers that transport messages themselves ---

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

        message: kept for `get`, if given. owned: the object goes when this process ends, unless it
        is deleted before. carrier: the object goes when the owner of this reference ends, unless it
        is deleted before. On failure the allocations are unpinned. Raises StoreFullError,
        ObjectExistsError, ObjectLostError, NoOwnerError.
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
        """Publish as `publish` does, but leave the waiting to the caller."""
        put = put_message(object_id, encoded, message, owned=owned, carrier=carrier)
        return Publication(self._connection, self._sent(put))

    def publish_transient(self, object_id: bytes, encoded: _native.Encoded) -> Hold:
        """Enter an encoded message's allocations as an object that goes with its last hold; return
        its first hold. On failure the allocations are unpinned. Raises as `publish` does.
        """
        put = put_message(object_id, encoded, None, transient=True)
        # If the store crashed after it had entered the object, the answer and the hold are lost.
        return self._connection.wait(self._sent(put)) or self.hold(object_id)

    def _sent(self, message: m.Put) -> Request:
        return publish(self._connection, self._session.pins, message)

    def discard(self, encoded: Iterable[_native.Encoded]) -> None:
        """Unpin encoded data that will not be published."""
        for message in encoded:
            _native.unpin(offsets_of(message.own))

    def begin_hold(self, object_id: bytes) -> Holding:
        """Ask for a hold of an object, without waiting. The caller waits by `confirm`."""
        check_id(object_id)
        request = HoldRequest(m.Hold(object_id), self._connection)
        return Holding(self._connection, self._connection.send(request), request.hold)

    def hold(self, object_id: bytes) -> Hold:
        """Return a hold, which keeps the object in the store until the hold is collected.

        Raises ObjectNotFoundError.
        """
        holding = self.begin_hold(object_id)
        holding.confirm()
        return holding.hold

    def hold_copy(self, object_id: bytes, allocations: Allocations) -> Hold | None:
        """Return a hold of this machine's copy of another machine's object; None if there is no
        copy, or not of all these allocations. The hold's `moved` says where they lie.
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
        """Return a message's data, where it lies. Its buffers keep the object's `hold` alive.

        moved: see `Hold`. Raises ObjectLostError, SipcError.
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
        """Map the segments of allocations that are about to be read, and check spilled bytes that
        no other hold has checked. They count as checked as long as `hold` is alive.

        Raises ObjectLostError for a segment that is gone, and for spilled bytes that are damaged.
        """
        places = list(places)
        self.ensure_segments({segment for segment, _ in places})
        checked, files, seconds = spill_reader.check(places)
        hold.checked += checked
        if files:
            self._connection.notify(m.ReadBack(list(files.items()), seconds))

    def ensure_segments(self, segment_ids: Iterable[bytes]) -> None:
        """Have the store send the segments that are not here yet. Raises ObjectLostError for a
        segment that is gone.
        """
        fetch(self._connection, self._session.segments, segment_ids)

    def shutdown(self) -> None:
        """End the store."""
        self._connection.request(m.Shutdown())


def unpacked(allocations: Iterable[tuple[bytes, bytes]]) -> Allocations:
    """Return the allocations (segment, offset, size) that are packed by segment."""
    return [(s, o, size) for s, packed in allocations for o, size in unpack(packed)]
