"""Evicts idle objects when memory is short.

Above the high watermark idle objects go until the low one is reached, and a put that does not fit
waits for that: first copies of other machines' objects, the first that was left first, then what
the policy chooses. A process that knows that memory is going to be short, as one that runs a DAG
does, has objects spilled ahead.
"""

import os
import time
from collections.abc import Iterable

from zerrow_store.budget import HIGH_WATERMARK, LOW_WATERMARK
from zerrow_store.policy import Candidate
from zerrow_store.protocol.reports import Eviction
from zerrow_store.server.eviction_records import Records
from zerrow_store.server.idle_objects import IdleObjects
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.page_cache import PageCache
from zerrow_store.server.spill import Batch, Spiller
from zerrow_store.server.state import State

# The size of one spilling job. Waiting puts are admitted after each.
_BATCH_BYTES = 256 << 20


class Evictor:
    """See the module. Evicts nothing until all clients have reported their holds."""

    def __init__(
        self,
        state: State,
        lifetimes: Lifetimes,
        idle: IdleObjects,
        spiller: Spiller,
        records: Records,
    ) -> None:
        self._state = state
        self._table = state.table
        self._lifetimes = lifetimes
        self._idle = idle
        self._spiller = spiller
        self._records = records
        self._expected = 0.0

    @property
    def is_writing(self) -> bool:
        """Whether objects are being spilled."""
        return self._spiller.is_busy

    def tick(self, resident: int) -> None:
        """Keep the watermarks; `resident` is what all segments have in memory, unpublished bytes
        and all. Call it about once a second, and after each job.
        """
        self._idle.look_at_disk()
        held = max(self._table.bytes_stored, resident)
        if held > HIGH_WATERMARK * self._state.budget:
            self._evict(held - int(LOW_WATERMARK * self._state.budget))

    # --- making room ---

    def make_room(self, needed: int) -> bool:
        """Free what `needed` bytes want beyond the budget, now or by a job that is begun.

        Return False, and evict nothing, if all idle objects would not suffice.
        """
        budget = self._state.budget
        excess = self._table.bytes_stored + needed - budget
        if excess <= 0:
            return True
        if self._spiller.is_busy:
            return self._state.all_returned()
        if needed > budget or excess > self._idle.nbytes or not self._state.all_returned():
            return False
        low = self._table.bytes_stored + needed - int(LOW_WATERMARK * budget)
        return self._evict(max(excess, low))

    def _evict(self, nbytes: int) -> bool:
        """Drop, and begin to spill, candidates of `nbytes` in all; whether any went."""
        if self._spiller.is_busy or not self._state.all_returned():
            return False
        batch, dropped, expected = Batch(self._table), False, 0.0
        target = self._table.bytes_stored - nbytes
        disk = self._spiller.room()
        while self._table.bytes_stored > target and self._idle.copies:
            self._drop_oldest_copy()
            dropped = True
        while self._table.bytes_stored - batch.nbytes > target and batch.nbytes < _BATCH_BYTES:
            if (chosen := self._idle.queue.pop()) is None:
                break
            candidate, way = chosen
            assert isinstance(candidate.key, bytes)
            if way == "drop":
                self._drop(candidate)
                dropped = True
            elif batch.nbytes and batch.nbytes + candidate.nbytes > disk:
                self._idle.queue.add(candidate)  # the disk takes what there is room for
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
            self._idle.offer(object_id)
        return False

    def spill_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Spill objects as soon as nobody reads them, whether memory is short or not. A process
        that begins to read one before that takes this back.
        """
        self._idle.want_on_disk(object_ids)
        self.spill_wanted()

    def spill_wanted(self) -> None:
        """Begin to spill what is idle and was to be spilled ahead, if there is any."""
        wanted = self._idle.wanted_on_disk()
        if not wanted or self._spiller.is_busy:
            return
        if not (self._idle.could_spill and self._state.all_returned()):
            return
        batch = Batch(self._table)
        for object_id in wanted:
            if batch.nbytes >= _BATCH_BYTES:
                break
            self._idle.take(object_id)
            batch.add(object_id)
        self._write(batch, self._spiller.seconds(batch.nbytes))

    def _drop_oldest_copy(self) -> None:
        object_id, nbytes = next(iter(self._idle.copies.items()))
        record = Eviction(time.time(), "drop", "a copy of another machine's", nbytes, 0.0, 0.0)
        self._records.add(os.urandom(8), record)
        self._lifetimes.drop_copy(object_id)

    def _drop(self, candidate: Candidate) -> None:
        assert isinstance(candidate.key, bytes)
        cached = self._table.cache.entries[candidate.key]
        key = (cached.file, cached.unit, frozenset(part for part, _ in cached.layout))
        name = f"{cached.path}:{cached.unit[1]}"
        expected = candidate.ways["drop"]
        record = Eviction(time.time(), "drop", name, candidate.nbytes, expected, 0.0)
        self._records.add(key, record)
        self._lifetimes.delete(candidate.key)

    def conclude(self) -> None:
        """End a spilling job that is done; what it could not take is a candidate again."""
        done = self._spiller.conclude()
        for object_id in done.objects:
            if object_id in self._idle:
                self._idle.offer(object_id)
        if done.nbytes:
            name = f"{len(done.objects)} objects"
            record = Eviction(time.time(), "spill", name, done.nbytes, self._expected, done.seconds)
            self._records.add(done.file_id, record)
        self.spill_wanted()

    # --- what came back ---

    def note_read_ahead(self, page_cache: PageCache) -> None:
        """Learn from what was read ahead since the last call."""
        while page_cache.read:
            file_id, nbytes, seconds = page_cache.read.popleft()
            self._records.returned(file_id, seconds)
            self._spiller.was_read(nbytes, seconds)

    def read_back(self, file_id: bytes, nbytes: int, seconds: float) -> None:
        """Note that a reader had spilled bytes from the disk, if it was the first one: the others
        had them from the page cache.
        """
        if self._records.returned(file_id, seconds):
            self._spiller.was_read(nbytes, seconds)

    def decoded(
        self, file: bytes, unit: tuple[str, str], parts: frozenset[int], seconds: float
    ) -> None:
        """Note that a reader has decoded a column, perhaps one that was dropped."""
        self._records.returned((file, unit, parts), seconds)
