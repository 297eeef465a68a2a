"""The reports of a store about itself.

Statistics, memory reports, and lists of what there is.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EvictionTotals:
    """Sums over the evictions of one way. count: evictions; a spill is a batch of objects. bytes: a
    float, as the sum of what clients report may exceed 64 bits. expected_seconds, seconds: the
    expected and the measured cost, as in `Eviction`.
    """

    count: int
    bytes: float
    expected_seconds: float
    seconds: float


@dataclass(frozen=True)
class CacheStats:
    """Figures of the cache of decoded columns.

    entries: objects in the cache now. hits: column chunks found in the cache. misses: column chunks
    decoded by their reader. decoding_seconds: of the columns entered. saved_seconds: the decoding
    seconds of the chunks found.
    """

    entries: int
    hits: int
    misses: int
    decoding_seconds: float
    saved_seconds: float


@dataclass(frozen=True)
class TransferStats:
    """What came from other machines and went to them."""

    received_objects: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True)
class SandboxStats:
    """Counts since the start of the process.

    Attributes
    ----------
    calls
        All calls.
    warm, waited, cold
        Calls that found a sandbox ready, waited until one was ready for its next call, or started
        one.
    started
        Sandboxes started, spare ones included.
    broken
        Sandboxes that a call made unusable.
    failed, timeouts, out_of_memory
        Calls that failed, by reason.
    bytes_copied, bytes_shared
        Inputs that were copied to isolate them, or passed as they were.
    bytes_returned
        Outputs, by reference.
    """

    calls: int = 0
    warm: int = 0
    waited: int = 0
    cold: int = 0
    started: int = 0
    broken: int = 0
    failed: int = 0
    timeouts: int = 0
    out_of_memory: int = 0
    bytes_copied: int = 0
    bytes_shared: int = 0
    bytes_returned: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass(frozen=True)
class StoreStats:
    """Figures of a store; sizes in bytes.

    `bytes_stored` is held in memory now, each byte once, `bytes_spilled` on disk. The other
    `bytes_*` are running counts of what was published where it lay, referred to in somebody else's
    segment, and copied. The bandwidths are in bytes a second, as last measured;
    `spill_processor_bandwidth` in bytes a second of a processor's time. eviction: the
    policy's name. log: where the server logs; its supervisors have a file beside that.

    The following begin at zero with each start of the server. puts: publications of this machine's
    processes that were taken; puts_waited: publications that waited for room; puts_refused: by the
    error's name. evicted: by way: "drop", "spill" and "rollback".
    """

    objects: int
    bytes_stored: int
    bytes_spilled: int
    bytes_shared: int
    bytes_reshared: int
    bytes_copied: int
    spill_bandwidth: int
    spill_processor_bandwidth: int
    read_back_bandwidth: int
    budget: int
    eviction: str
    segments: int
    clients: int
    pid: int
    supervisors: int
    log: str
    puts: int
    puts_waited: int
    puts_refused: dict[str, int]
    evicted: dict[str, EvictionTotals]
    cache: CacheStats
    transfers: TransferStats
    sandbox: SandboxStats

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class MemoryReport:
    """Bytes. `resident` is what all segments have in memory: what is published, as part of objects
    or of the cache, in use (somebody holds it) or idle; and what is not, which processes work with
    or keep warm for it. What objects and the cache share counts as in use before idle, and as
    objects' before the cache's. `spilled` lies on disk. The watermarks say when eviction begins and
    ends.
    """

    budget: int
    high_watermark: int
    low_watermark: int
    resident: int
    objects_in_use: int
    objects_idle: int
    cache_in_use: int
    cache_idle: int
    unpublished: int
    spilled: int

    def as_dict(self) -> dict[str, int]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class SegmentMemory:
    """What one segment is used for, in bytes, as in a MemoryReport. pid: of the process that made
    it; 0 for files of no process, on disk or sealed.
    """

    segment: bytes
    pid: int
    resident: int
    objects_in_use: int
    objects_idle: int
    cache_in_use: int
    cache_idle: int
    unpublished: int
    spilled: int


@dataclass
class Eviction:
    """What was evicted at the time `when`, how ("drop", "spill", "rollback"), and how many bytes.

    expected: the seconds that it and having the bytes back once should take; seconds: what it took
    until now. returned: whether the bytes were wanted again.
    """

    when: float
    way: str
    name: str
    nbytes: int
    expected: float
    seconds: float
    returned: bool = False


@dataclass(frozen=True)
class ObjectInfo:
    """An object in the store, or this machine's copy of another machine's object.

    Attributes
    ----------
    nbytes, bytes_spilled
        The bytes that it refers to, in memory and on disk; and those of them that are on disk.
        Bytes that several objects share count in each.
    holds
        The holds of connections on it.
    transient
        Whether it goes with its last hold.
    reference
        The reference that carries it, in Ray an ObjectRef; empty if it is not known.
    pid
        The process that published it; 0 for decoded columns, and for copies.
    cached
        Whether it is a decoded column.
    copy
        Whether its bytes are those of another machine's object.
    name
        None if it has none.
    """

    object_id: bytes
    nbytes: int
    created: float
    holds: int
    transient: bool
    bytes_spilled: int
    reference: bytes
    pid: int
    cached: bool
    copy: bool
    name: str | None = None


@dataclass(frozen=True)
class CopiedTable:
    """A publication by the process `pid`, of which many bytes had to be copied into the arena:
    `copied`. reference: as in an ObjectInfo.
    """

    when: float
    object_id: bytes
    reference: bytes
    pid: int
    copied: int


@dataclass(frozen=True)
class Sample:
    """Figures at the time `when`: `resident` as in a MemoryReport, the others as in StoreStats."""

    when: float
    resident: int
    bytes_stored: int
    bytes_spilled: int
    bytes_shared: int
    bytes_reshared: int
    bytes_copied: int
    cache_hits: float
    cache_misses: float


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache, as `zerrow cache` shows it. parts: row groups, or 1 for a whole file.

    readers: how many views there are of it. seconds: what its decoding took.
    """

    object_id: bytes
    path: str
    variant: str
    column: str
    parts: int
    nbytes: int
    readers: int
    hits: int
    seconds: float
    created: float
    used: float
