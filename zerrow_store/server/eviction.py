"""Which idle objects go when memory is short: the policy's choice, carried out and recorded.

An object is *idle* when no client holds it. It is then a candidate, at what the ways to give it up
are expected to cost: a decoded column can be dropped, everything can be spilled. Before all of them
go idle copies of other machines' objects, which are there still, the first that was left first: no
policy is asked. Above the high watermark idle objects go until the low one is reached, and a put
that does not fit waits for that. Who knows that memory is going to be short, as one that runs a DAG
does, has objects spilled ahead.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable

from zerrow_store.budget import HIGH_WATERMARK, LOW_WATERMARK
from zerrow_store.policy import Candidate, Policy
from zerrow_store.protocol.reports import Eviction
from zerrow_store.server.eviction_queue import EvictionQueue
from zerrow_store.server.object_table import ObjectTable
from zerrow_store.server.spill import Batch, Spiller

# Written in one go: puts that wait are let in after each.
_BATCH_BYTES = 256 << 20
_MOST_RECORDS = 1000


WAYS = ("drop", "spill", "rollback")


class Records:
    """The newest evictions, and the sums of all by way. Not in the object table: a store that is
    started again begins anew.
    """

    def __init__(self) -> None:
        self._newest: deque[tuple[Hashable, Eviction]] = deque()
        self._open: dict[Hashable, Eviction] = {}
        summed = ("count", "bytes", "expected_seconds", "seconds")
        # Floats: clients say how many bytes they have rolled back, and integers travel as 64 bits.
        self.totals = {way: dict.fromkeys(summed, 0.0) for way in WAYS}

    def add(self, key: Hashable, record: Eviction) -> None:
        """Enter an eviction; `key` is what its return is known by."""
        if len(self._newest) == _MOST_RECORDS:
            oldest_key, oldest = self._newest.popleft()
            if self._open.get(oldest_key) is oldest:
                del self._open[oldest_key]
        self._newest.append((key, record))
        self._open[key] = record
        totals = self.totals[record.way]
        totals["count"] += 1
        totals["bytes"] += record.nbytes
        totals["expected_seconds"] += record.expected
        totals["seconds"] += record.seconds

    def returned(self, key: Hashable, seconds: float) -> bool:
        """Note what it took to have evicted bytes back; whether they were, for the first time."""
        record = self._open.get(key)
        if record is None:
            return False
        is_first, record.returned = not record.returned, True
        record.seconds += seconds
        self.totals[record.way]["seconds"] += seconds
        return is_first

    def rows(self) -> list[Eviction]:
        """Return them, the oldest first."""
        return [record for _, record in self._newest]


class Evictor:
    """See the module. delete: ends an object; drop_copy: gives up the bytes of a copy.
    all_returned: whether it is known what everybody holds: not before all readers that a restarted
    store had before have come back.
    """

    def __init__(
        self,
        table: ObjectTable,
        spiller: Spiller,
        policy: Policy,
        budget: int,
        *,
        delete: Callable[[bytes], None],
        drop_copy: Callable[[bytes], None],
        all_returned: Callable[[], bool],
    ) -> None:
        self._table = table
        self._spiller = spiller
        self._policy = policy
        self._budget = budget
        self._delete = delete
        self._drop_copy = drop_copy
        self._all_returned = all_returned
        self._idle: dict[bytes, float] = {}
        self._copies: dict[bytes, int] = {}  # how many bytes of each, in the order they were left
        self._queue = EvictionQueue(policy)
        # To be spilled as soon as they are idle; in order, the values say nothing.
        self._wanted_on_disk: dict[bytes, None] = {}
        self._could_spill = spiller.is_usable
        self._expected = 0.0
        self.records = Records()

    # --- what is idle ---

    def idle(self, object_id: bytes) -> None:
        """An object is idle."""
        self._idle[object_id] = time.monotonic()
        self._offer(object_id)
        if object_id in self._wanted_on_disk:
            self._spill_wanted()

    def busy(self, object_id: bytes) -> None:
        """An object is held by one more, or gone."""
        if self._idle.pop(object_id, None) is not None:
            self._queue.discard(object_id)
            self._copies.pop(object_id, None)
        self._wanted_on_disk.pop(object_id, None)

    def _offer(self, object_id: bytes) -> None:
        entry = self._table.objects[object_id]
        if entry.copy:
            self._copies[object_id] = entry.nbytes
            return
        nbytes = entry.nbytes - entry.bytes_spilled
        ways = {}
        if cached := self._table.cache.entries.get(object_id):
            ways["drop"] = cached.seconds
        if self._could_spill:
            ways["spill"] = self._spiller.seconds(nbytes)
        self._queue.add(Candidate(object_id, nbytes, ways, self._idle[object_id]))

    def tick(self, resident: int) -> None:
        """Keep the watermarks; `resident` is what all segments have in memory, unpublished bytes
        and all. Call it about once a second, and after each job.
        """
        if self._could_spill != self._spiller.is_usable:
            self._could_spill = self._spiller.is_usable
            for object_id in self._idle:
                self._offer(object_id)
        held = max(self._table.bytes_stored, resident)
        if held > HIGH_WATERMARK * self._budget:
            self._evict(held - int(LOW_WATERMARK * self._budget))

    # --- making room ---

    def make_room(self, needed: int) -> bool:
        """Free what `needed` bytes want beyond the budget, now or by a job that is begun.

        False, and nothing lost, if all that is idle would not be enough.
        """
        excess = self._table.bytes_stored + needed - self._budget
        if excess <= 0:
            return True
        if self._spiller.is_busy:
            return self._all_returned()
        idle = self._queue.nbytes + sum(self._copies.values())
        if needed > self._budget or excess > idle or not self._all_returned():
            return False
        low = self._table.bytes_stored + needed - int(LOW_WATERMARK * self._budget)
        return self._evict(max(excess, low))

    def _evict(self, nbytes: int) -> bool:
        """Drop, and begin to spill, candidates of `nbytes` in all; whether any went."""
        if self._spiller.is_busy or not self._all_returned():
            return False
        batch, dropped, expected = Batch(self._table), False, 0.0
        target = self._table.bytes_stored - nbytes
        disk = self._spiller.room()
        while self._table.bytes_stored > target and self._copies:
            self._drop_oldest_copy()
            dropped = True
        while self._table.bytes_stored - batch.nbytes > target and batch.nbytes < _BATCH_BYTES:
            if (chosen := self._queue.pop()) is None:
                break
            candidate, way = chosen
            assert isinstance(candidate.key, bytes)
            if way == "drop":
                self._drop(candidate)
                dropped = True
            elif batch.nbytes and batch.nbytes + candidate.nbytes > disk:
                self._queue.add(candidate)  # the disk takes what there is room for
                break
            else:
                batch.add(candidate.key)
                expected += candidate.ways[way]
        return self._write(batch, expected) or dropped

    def _write(self, batch: Batch, expected: float) -> bool:
        """Begin to spill a batch, expected to take so many seconds; whether that frees anything,
        and can be done.
        """
        if batch.sizes and self._spiller.start(batch):
            self._expected = expected
            return True
        # Also what frees nothing now: what it shares with others may be idle next time.
        for object_id in batch.objects:
            self._offer(object_id)
        return False

    def spill_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Spill objects as soon as nobody reads them, whether memory is short or not. Who begins to
        read one before that takes this back.
        """
        objects = self._table.objects
        self._wanted_on_disk.update(
            dict.fromkeys(i for i in object_ids if i in objects and not objects[i].copy)
        )
        self._spill_wanted()

    def _spill_wanted(self) -> None:
        if self._spiller.is_busy or not (self._could_spill and self._all_returned()):
            return
        batch = Batch(self._table)
        for object_id in [each for each in self._wanted_on_disk if each in self._idle]:
            if batch.nbytes >= _BATCH_BYTES:
                break
            del self._wanted_on_disk[object_id]
            self._queue.discard(object_id)
            batch.add(object_id)
        self._write(batch, self._spiller.seconds(batch.nbytes))

    def _drop_oldest_copy(self) -> None:
        object_id, nbytes = next(iter(self._copies.items()))
        record = Eviction(time.time(), "drop", "a copy of another machine's", nbytes, 0.0, 0.0)
        self.records.add(os.urandom(8), record)
        self._drop_copy(object_id)

    def _drop(self, candidate: Candidate) -> None:
        assert isinstance(candidate.key, bytes)
        cached = self._table.cache.entries[candidate.key]
        key = (cached.file, cached.unit, frozenset(part for part, _ in cached.layout))
        name = f"{cached.path}:{cached.unit[1]}"
        expected = candidate.ways["drop"]
        self.records.add(key, Eviction(time.time(), "drop", name, candidate.nbytes, expected, 0.0))
        self._delete(candidate.key)

    def conclude(self) -> None:
        """A spilling job has ended; what it could not take is a candidate again."""
        done = self._spiller.conclude()
        for object_id in done.objects:
            if object_id in self._idle:
                self._offer(object_id)
        if done.nbytes:
            name = f"{len(done.objects)} objects"
            record = Eviction(time.time(), "spill", name, done.nbytes, self._expected, done.seconds)
            self.records.add(done.file_id, record)
        self._spill_wanted()

    def asked_back(self, file_id: bytes) -> bool:
        """Somebody is about to read spilled bytes; returns whether they have to come from the disk,
        as nobody has read them.
        """
        return self.records.returned(file_id, 0.0)

    def read_ahead(self, file_id: bytes, nbytes: int, seconds: float) -> None:
        """Bytes that were asked back were read from the disk."""
        self.records.returned(file_id, seconds)
        self._spiller.was_read(nbytes, seconds)

    def read_back(self, file_id: bytes, nbytes: int, seconds: float) -> None:
        """A reader had spilled bytes from the disk, the first one: the others had them from the
        page cache.
        """
        if self.records.returned(file_id, seconds):
            self._spiller.was_read(nbytes, seconds)

    def decoded(
        self, file: bytes, unit: tuple[str, str], parts: frozenset[int], seconds: float
    ) -> None:
        """A reader has decoded a column, perhaps one that was dropped."""
        self.records.returned((file, unit, parts), seconds)
