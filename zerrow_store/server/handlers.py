"""What the server does for each kind of request.

A handler is given a call and its request, whose fields are checked already. It changes the state,
collects effects, and returns the reply or raises an error. It checks all that can be wrong before
it changes anything: a request that is refused has changed nothing.
"""

import os
import time
from collections import Counter, defaultdict
from typing import Any

from zerrow_store.errors import (
    ObjectExistsError,
    ObjectLostError,
    ObjectNotFoundError,
    ProtocolError,
)
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Moves
from zerrow_store.protocol.framing import PROTOCOL_VERSION
from zerrow_store.protocol.places import unpack
from zerrow_store.protocol.replies import Found, Greeting, SentSegment
from zerrow_store.protocol.reports import (
    Eviction,
    MemoryReport,
    ObjectInfo,
    SegmentMemory,
    StoreStats,
)
from zerrow_store.segments import check_segment
from zerrow_store.server.connection import DEFERRED, Call
from zerrow_store.server.decode_cache import DecodeCache
from zerrow_store.server.dispatcher import Handler
from zerrow_store.server.effects import Effects
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.memory_report import account, account_by_segment
from zerrow_store.server.owners import Owners
from zerrow_store.server.producer_quota import ProducerQuota
from zerrow_store.server.put_queue import PutQueue
from zerrow_store.server.replication import Replication
from zerrow_store.server.statistics import Statistics


class Handlers:
    """See the module. by_type: the handler of each type of request."""

    def __init__(
        self,
        lifetimes: Lifetimes,
        quota: ProducerQuota,
        put_queue: PutQueue,
        owners: Owners,
        cache: DecodeCache,
        statistics: Statistics,
        replication: Replication,
        effects: Effects,
        budget: int,
    ) -> None:
        self._lifetimes = lifetimes
        self._quota = quota
        self._put_queue = put_queue
        self._owners = owners
        self._cache = cache
        self._statistics = statistics
        self._replication = replication
        self._effects = effects
        self._budget = budget
        self.by_type: dict[type[m.Request], Handler] = {
            m.Hello: self._greet,
            m.TakeOver: self._take_over,
            m.Shutdown: self._shut_down,
            m.Returned: self._returned,
            m.Goodbye: self._goodbye,
            m.Attach: self._attach,
            m.Put: self._put,
            m.Claim: self._claim,
            m.Get: self._get,
            m.Hold: self._hold,
            m.Release: self._release,
            m.Segments: self._segments,
            m.Delete: self._delete,
            m.Watch: self._watch,
            m.Land: self._land,
            m.Elsewhere: self._elsewhere,
            m.List: self._list,
            m.Stats: self._stats,
            m.Count: self._count,
            m.Memory: self._memory,
            m.MemoryBySegment: self._memory_by_segment,
            m.Evictions: self._evictions,
            m.ReadBack: self._read_back,
            m.SpillAhead: self._spill_ahead,
            m.ReadAhead: self._read_ahead,
            m.Evicted: self._evicted,
            m.CacheOpen: cache.open,
            m.CachePublish: self._cache_publish,
            m.CacheFail: cache.fail,
            m.CacheRelease: cache.release,
            m.CacheList: cache.list_entries,
            m.CacheDrop: cache.drop,
        }

    # --- connections ---

    def _greet(self, call: Call, request: m.Hello) -> Greeting:
        connection = call.connection
        if connection.greeted:
            raise ProtocolError("it has said hello already")
        if request.version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"it speaks version {request.version}, the store {PROTOCOL_VERSION}"
            )
        connection.greeted, connection.role = True, request.role
        if request.role == "supervisor":
            self._effects.hand_over(connection, request.identity)
        else:
            connection.identity = request.identity
            self._lifetimes.readers.came(connection)
        if request.role == "agent":
            self._owners.agent_came(connection)
        return Greeting(PROTOCOL_VERSION, os.getpid(), self._lifetimes.table.epoch)

    def _take_over(self, call: Call, request: m.TakeOver) -> None:
        self._replication.has_all(call.connection)

    def _shut_down(self, call: Call, request: m.Shutdown) -> None:
        self._effects.stop()

    def _returned(self, call: Call, request: m.Returned) -> None:
        self._lifetimes.readers.returned(call.connection)

    def _goodbye(self, call: Call, request: m.Goodbye) -> None:
        self._lifetimes.readers.said_goodbye(call.connection)

    # --- segments ---

    def _attach(self, call: Call, request: m.Attach) -> bytes:
        connection, segment_id = call.connection, request.segment_id
        if connection.segment not in (None, segment_id):
            raise ProtocolError("a process has one segment")
        known = self._lifetimes.table.segments.get(segment_id)
        if known is not None and known.pid != connection.pid:
            raise ProtocolError("a segment belongs to the process that made it")
        if known is None:
            (fd,) = call.descriptors
            check_segment(fd, request.size)
            self._lifetimes.enter_segment(segment_id, fd, request.size, connection.pid)
            call.descriptors.clear()
        segment = self._lifetimes.table.segments[segment_id]
        if request.shared and not segment.shared:
            self._lifetimes.change(events.SegmentShared(segment_id))
        connection.segment = segment_id
        self._lifetimes.owners[segment_id].add(connection)
        if request.owner_id:
            self._owners.came(connection, request.owner_id)
            if known is not None:
                self._lifetimes.owner_came_back(segment_id)
        self._quota.came(segment_id)
        return segment.references.offsets()

    def _segments(self, call: Call, request: m.Segments) -> Any:
        missing = [s for s in request.segment_ids if s not in self._lifetimes.descriptors]
        if missing:
            raise ObjectLostError(f"segment {missing[0].hex()} is not in the store any more")
        # Reopened read-only: what is given away can neither be written nor truncated.
        fds: list[int] = []
        try:
            for segment_id in request.segment_ids:
                path = f"/proc/self/fd/{self._lifetimes.descriptors[segment_id]}"
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        segments = [self._lifetimes.table.segments[each] for each in request.segment_ids]
        self._effects.reply(call, [SentSegment(s.size, s.checksums) for s in segments], fds)
        return DEFERRED

    # --- objects ---

    def _put(self, call: Call, request: m.Put) -> Any:
        self._quota.published(call.connection.segment)
        return self._owners.put(call, request)

    def _claim(self, call: Call, request: m.Claim) -> None:
        self._owners.claimed(call.connection, request)

    def _get(self, call: Call, request: m.Get) -> Found:
        entry = self._lifetimes.take_hold(call.connection, request.object_id)
        return Found(entry.message, entry.allocations, entry.moves(), entry.node or b"")

    def _hold(self, call: Call, request: m.Hold) -> Moves:
        return self._lifetimes.take_hold(call.connection, request.object_id).moves()

    def _release(self, call: Call, request: m.Release) -> None:
        holds, released = call.connection.holds, Counter(request.object_ids)
        if not released <= holds:
            raise ProtocolError("it releases what it does not hold")
        for object_id, count in released.items():
            holds[object_id] -= count
            if holds[object_id] == 0:
                del holds[object_id]
            self._lifetimes.release(object_id, count)

    def _delete(self, call: Call, request: m.Delete) -> None:
        if not request.missing_ok:
            for object_id in request.object_ids:
                entry = self._lifetimes.table.objects.get(object_id)
                if entry is None or entry.deleted:
                    raise ObjectNotFoundError(object_id)
        for object_id in request.object_ids:
            self._lifetimes.delete(object_id)
        self._owners.deleted(request.object_ids)

    def _watch(self, call: Call, request: m.Watch) -> list[bytes]:
        objects = self._lifetimes.table.objects
        missing = [i for i in request.object_ids if i not in objects or objects[i].deleted]
        self._lifetimes.watched.update(set(request.object_ids).difference(missing))
        return missing

    def _land(self, call: Call, request: m.Land) -> bool:
        if call.connection.role != "agent" or not call.connection.holds[request.landed]:
            raise ProtocolError("objects are landed by the agent, in what it holds")
        objects = self._lifetimes.table.objects
        allocations = objects[request.landed].allocations
        there = {(segment, at) for segment, packed in allocations for at, _ in unpack(packed)}
        if not there.issuperset((segment, at) for *_, segment, at in request.moved):
            raise ProtocolError("it has not landed there")
        entry = objects.get(request.object_id)
        if entry is not None and (entry.deleted or not entry.is_elsewhere):
            raise ObjectExistsError(f"object {request.object_id.hex()} is here already")
        self._lifetimes.land(request.object_id, request.landed, request.moved, request.node or None)
        self._lifetimes.take_hold(call.connection, request.object_id)
        return True

    def _elsewhere(self, call: Call, request: m.Elsewhere) -> dict[bytes, list[bytes]]:
        by_node = defaultdict(list)
        for object_id, entry in self._lifetimes.table.objects.items():
            if entry.node is not None and not entry.deleted:
                by_node[entry.node].append(object_id)
        return by_node

    def _cache_publish(self, call: Call, request: m.CachePublish) -> list[bool]:
        self._quota.published(call.connection.segment)
        return self._cache.publish(call, request)

    # --- figures ---

    def _list(self, call: Call, request: m.List) -> list[ObjectInfo]:
        holders = self._lifetimes.holders
        return [
            ObjectInfo(object_id, entry.nbytes, entry.created, holders[object_id], entry.transient)
            for object_id, entry in self._lifetimes.table.objects.items()
            if not (entry.deleted or entry.is_elsewhere)
        ]

    def _stats(self, call: Call, request: m.Stats) -> StoreStats:
        return self._statistics.report()

    def _count(self, call: Call, request: m.Count) -> None:
        self._statistics.count(request)

    def _memory(self, call: Call, request: m.Memory) -> MemoryReport:
        return account(
            self._lifetimes.table, self._lifetimes.holders, self._lifetimes.resident(), self._budget
        )

    def _memory_by_segment(self, call: Call, request: m.MemoryBySegment) -> list[SegmentMemory]:
        return account_by_segment(
            self._lifetimes.table, self._lifetimes.holders, self._lifetimes.resident_of
        )

    def _evictions(self, call: Call, request: m.Evictions) -> list[Eviction]:
        return self._lifetimes.evictor.records.rows()

    # --- what processes know of the disk, and of what is to come ---

    def _read_back(self, call: Call, request: m.ReadBack) -> None:
        total = sum(nbytes for _, nbytes in request.files)
        for file_id, nbytes in request.files:
            segment = self._lifetimes.table.segments.get(file_id)
            if segment is not None and segment.spilled and 0 < nbytes <= segment.size:
                seconds = request.seconds * nbytes / total
                self._lifetimes.evictor.read_back(file_id, nbytes, seconds)

    def _spill_ahead(self, call: Call, request: m.SpillAhead) -> None:
        self._lifetimes.evictor.spill_ahead(request.object_ids)

    def _read_ahead(self, call: Call, request: m.ReadAhead) -> None:
        self._lifetimes.page_cache.read_ahead(request.object_ids)

    def _evicted(self, call: Call, request: m.Evicted) -> None:
        times = (request.expected, request.seconds)
        record = Eviction(time.time(), "rollback", request.name, request.nbytes, *times, True)
        self._lifetimes.evictor.records.add(os.urandom(8), record)
