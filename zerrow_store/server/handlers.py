"""What the server does for each kind of request.

A handler is a function of the core, a call, and its request, whose fields are checked already. It
changes the state, collects effects, and returns the reply or raises an error. It checks all that
can be wrong before it changes anything: a request that is refused has changed nothing.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
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
    CopiedTable,
    Eviction,
    MemoryReport,
    ObjectInfo,
    SegmentMemory,
)
from zerrow_store.segments import check_segment
from zerrow_store.server.connection import DEFERRED, Call
from zerrow_store.server.core import Core
from zerrow_store.server.dispatcher import Handler
from zerrow_store.server.memory_report import account, account_by_segment

# --- connections ---


def _greet(core: Core, call: Call, request: m.Hello) -> Greeting:
    connection = call.connection
    if connection.greeted:
        raise ProtocolError("`hello` was sent twice")
    if request.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the client speaks version {request.version} of the protocol, the store "
            f"{PROTOCOL_VERSION}: install one release for both"
        )
    connection.greeted, connection.role = True, request.role
    if request.role == "supervisor":
        core.effects.hand_over(connection, request.identity)
    else:
        connection.identity = request.identity
        core.readers.came(connection)
    if request.role == "agent":
        core.owners.agent_came(connection)
    return Greeting(PROTOCOL_VERSION, os.getpid(), core.state.table.epoch)


def _shut_down(core: Core, call: Call, request: m.Shutdown) -> None:
    core.effects.stop()


def _returned(core: Core, call: Call, request: m.Returned) -> None:
    core.readers.returned(call.connection)


def _goodbye(core: Core, call: Call, request: m.Goodbye) -> None:
    core.readers.said_goodbye(call.connection)


# --- segments ---


def _attach(core: Core, call: Call, request: m.Attach) -> bytes:
    connection, segment_id = call.connection, request.segment_id
    if connection.segment not in (None, segment_id):
        raise ProtocolError("a process has one segment")
    known = core.state.table.segments.get(segment_id)
    if known is not None and known.pid != connection.pid:
        raise ProtocolError("a segment belongs to the process that made it")
    if known is None:
        (fd,) = call.descriptors
        check_segment(fd, request.size)
        core.processes.attach(segment_id, fd, request.size, connection.pid)
        call.descriptors.clear()
    segment = core.state.table.segments[segment_id]
    if request.shared and not segment.shared:
        core.state.change(events.SegmentShared(segment_id))
    core.state.attach(connection, segment_id)
    if request.owner_id:
        core.owners.came(connection, request.owner_id)
        if known is not None:
            core.lifetimes.owner_came_back(segment_id)
    core.quota.came(segment_id)
    return segment.references.offsets()


def _segments(core: Core, call: Call, request: m.Segments) -> Any:
    missing = [s for s in request.segment_ids if s not in core.state.descriptors]
    if missing:
        raise ObjectLostError(f"segment {missing[0].hex()} is not in the store any more")
    # Reopened read-only: what is given away can neither be written nor truncated.
    fds: list[int] = []
    try:
        for segment_id in request.segment_ids:
            path = f"/proc/self/fd/{core.state.descriptors[segment_id]}"
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    segments = [core.state.table.segments[each] for each in request.segment_ids]
    core.effects.reply(call, [SentSegment(s.size, s.checksums) for s in segments], fds)
    return DEFERRED


# --- objects ---


def _put(core: Core, call: Call, request: m.Put) -> Any:
    core.quota.published(call.connection.segment)
    return core.owners.put(call, request)


def _claim(core: Core, call: Call, request: m.Claim) -> None:
    core.owners.claimed(call.connection, request)


def _carried(core: Core, call: Call, request: m.Carried) -> None:
    objects, segment = core.state.table.objects, call.connection.segment
    there = [object_id for object_id in request.object_ids if object_id in objects]
    if segment is None or any(objects[object_id].owner != segment for object_id in there):
        raise ProtocolError("only the owner of an object may say which reference carries it")
    core.state.change(events.ObjectsCarried(there, request.reference))
    core.put_queue.copied.carried(there, request.reference)


def _get(core: Core, call: Call, request: m.Get) -> Found:
    entry = core.lifetimes.take_hold(call.connection, request.object_id)
    return Found(entry.message, entry.allocations, entry.moves(), entry.node or b"")


def _named(core: Core, call: Call, request: m.Named) -> bytes:
    object_id = core.state.table.names.get(request.name)
    if object_id is None:
        raise ObjectNotFoundError(request.name)
    return object_id


def _hold(core: Core, call: Call, request: m.Hold) -> Moves:
    return core.lifetimes.take_hold(call.connection, request.object_id).moves()


def _release(core: Core, call: Call, request: m.Release) -> None:
    holds, released = call.connection.holds, Counter(request.object_ids)
    if not released <= holds:
        raise ProtocolError("the connection does not hold this object as often as it releases it")
    for object_id, count in released.items():
        holds[object_id] -= count
        if holds[object_id] == 0:
            del holds[object_id]
        core.lifetimes.release(object_id, count)


def _delete(core: Core, call: Call, request: m.Delete) -> None:
    if not request.missing_ok:
        for object_id in request.object_ids:
            entry = core.state.table.objects.get(object_id)
            if entry is None or entry.deleted:
                raise ObjectNotFoundError(object_id)
    for object_id in request.object_ids:
        core.lifetimes.delete(object_id)
    core.owners.deleted(request.object_ids)


def _watch(core: Core, call: Call, request: m.Watch) -> list[bytes]:
    objects = core.state.table.objects
    missing = [i for i in request.object_ids if i not in objects or objects[i].deleted]
    core.state.watched.update(set(request.object_ids).difference(missing))
    return missing


def _land(core: Core, call: Call, request: m.Land) -> bool:
    if call.connection.role != "agent" or not call.connection.holds[request.landed]:
        raise ProtocolError("only the transfer agent may land an object, in memory that it holds")
    objects = core.state.table.objects
    allocations = objects[request.landed].allocations
    there = {(segment, at) for segment, packed in allocations for at, _ in unpack(packed)}
    if not there.issuperset((segment, at) for *_, segment, at in request.moved):
        raise ProtocolError("a place lies outside of the landed object")
    entry = objects.get(request.object_id)
    if entry is not None and (entry.deleted or not entry.is_elsewhere):
        raise ObjectExistsError(f"object {request.object_id.hex()} is here already")
    core.lifetimes.add_copy(request.object_id, request.landed, request.moved, request.node or None)
    core.lifetimes.take_hold(call.connection, request.object_id)
    return True


def _elsewhere(core: Core, call: Call, request: m.Elsewhere) -> dict[bytes, list[bytes]]:
    by_node = defaultdict(list)
    for object_id, entry in core.state.table.objects.items():
        if entry.node is not None and not entry.deleted:
            by_node[entry.node].append(object_id)
    return by_node


def _cache_publish(core: Core, call: Call, request: m.CachePublish) -> list[bool]:
    core.quota.published(call.connection.segment)
    return core.cache.publish(call, request)


# --- figures ---


def _list(core: Core, call: Call, request: m.List) -> list[ObjectInfo]:
    table, holders = core.state.table, core.state.holders
    return [
        ObjectInfo(
            object_id,
            entry.nbytes,
            entry.created,
            holders[object_id],
            entry.transient,
            bytes_spilled=entry.bytes_spilled,
            reference=entry.reference or b"",
            pid=entry.pid,
            cached=object_id in table.cache.entries,
            copy=entry.copy,
            name=entry.name,
        )
        for object_id, entry in table.objects.items()
        if not (entry.deleted or entry.is_elsewhere)
    ]


def _memory(core: Core, call: Call, request: m.Memory) -> MemoryReport:
    return account(core.state.table, core.state.holders, core.state.resident(), core.state.budget)


def _memory_by_segment(core: Core, call: Call, request: m.MemoryBySegment) -> list[SegmentMemory]:
    return account_by_segment(core.state.table, core.state.holders, core.state.resident_of)


def _evictions(core: Core, call: Call, request: m.Evictions) -> list[Eviction]:
    return core.records.rows()


def _copied_tables(core: Core, call: Call, request: m.CopiedTables) -> list[CopiedTable]:
    return core.put_queue.copied.rows()


# --- what processes know of the disk, and of what is to come ---


def _read_back(core: Core, call: Call, request: m.ReadBack) -> None:
    total = sum(nbytes for _, nbytes in request.files)
    for file_id, nbytes in request.files:
        segment = core.state.table.segments.get(file_id)
        if segment is not None and segment.spilled and 0 < nbytes <= segment.size:
            seconds = request.seconds * nbytes / total
            core.evictor.read_back(file_id, nbytes, seconds)


def _spill_ahead(core: Core, call: Call, request: m.SpillAhead) -> None:
    core.evictor.spill_ahead(request.object_ids)


def _read_ahead(core: Core, call: Call, request: m.ReadAhead) -> None:
    core.page_cache.read_ahead(request.object_ids)


def _evicted(core: Core, call: Call, request: m.Evicted) -> None:
    times = (request.expected, request.seconds)
    record = Eviction(time.time(), "rollback", request.name, request.nbytes, *times, True)
    core.records.add(os.urandom(8), record)


HANDLERS: dict[type[m.Request], Callable[[Core, Call, Any], Any]] = {
    m.Hello: _greet,
    m.Returned: _returned,
    m.Goodbye: _goodbye,
    m.Shutdown: _shut_down,
    m.Attach: _attach,
    m.Segments: _segments,
    m.Put: _put,
    m.Carried: _carried,
    m.Claim: _claim,
    m.Get: _get,
    m.Named: _named,
    m.Hold: _hold,
    m.Release: _release,
    m.Delete: _delete,
    m.Watch: _watch,
    m.Land: _land,
    m.Elsewhere: _elsewhere,
    m.List: _list,
    m.Memory: _memory,
    m.MemoryBySegment: _memory_by_segment,
    m.Evictions: _evictions,
    m.CopiedTables: _copied_tables,
    m.ReadBack: _read_back,
    m.SpillAhead: _spill_ahead,
    m.ReadAhead: _read_ahead,
    m.Evicted: _evicted,
    m.CacheOpen: lambda core, call, request: core.cache.open(call, request),
    m.CachePublish: _cache_publish,
    m.CacheFail: lambda core, call, request: core.cache.fail(call, request),
    m.CacheRelease: lambda core, call, request: core.cache.release(call, request),
    m.CacheList: lambda core, call, request: core.columns.entries(),
    m.CacheDrop: lambda core, call, request: core.columns.drop(request.path),
}
"""The handlers, by the type of request."""


def handlers_of(core: Core) -> dict[type[m.Request], Handler]:
    """Return the handlers of what a core alone can answer."""
    return {kind: partial(handle, core) for kind, handle in HANDLERS.items()}
