"""Idle objects, which no client holds: candidates for eviction, at what each way is expected to
cost.

A decoded column can be dropped, everything can be spilled. Idle copies of other machines' objects
stand apart: they are there still, so they go first, and no policy is asked.
"""

import time
from collections.abc import Iterable

from zerrow_store.policy import Candidate, Policy
from zerrow_store.server.eviction_queue import EvictionQueue
from zerrow_store.server.spill import Spiller
from zerrow_store.server.state import State


class IdleObjects:
    """See the module.

    Attributes
    ----------
    queue
        The candidates.
    copies
        The bytes of each idle copy, in the order in which they were left.
    could_spill
        Whether the disk was usable when they were last offered.
    wanted_came
        Whether one that is to be spilled has become idle since `wanted_on_disk` was called.
    """

    def __init__(self, state: State, spiller: Spiller, policy: Policy) -> None:
        self._table = state.table
        self._spiller = spiller
        self._since: dict[bytes, float] = {}
        self.queue = EvictionQueue(policy)
        self.copies: dict[bytes, int] = {}
        # To be spilled as soon as they are idle, in order (an ordered set).
        self._wanted_on_disk: dict[bytes, None] = {}
        self.wanted_came = False
        self.could_spill = spiller.is_usable

    def __contains__(self, object_id: bytes) -> bool:
        return object_id in self._since

    @property
    def nbytes(self) -> int:
        """The bytes of all that could go."""
        return self.queue.nbytes + sum(self.copies.values())

    def add(self, object_id: bytes) -> None:
        """Note that an object is idle."""
        self._since[object_id] = time.monotonic()
        self.offer(object_id)
        self.wanted_came |= object_id in self._wanted_on_disk

    def discard(self, object_id: bytes) -> None:
        """Note that an object is held, or gone."""
        if self._since.pop(object_id, None) is not None:
            self.queue.discard(object_id)
            self.copies.pop(object_id, None)
        self._wanted_on_disk.pop(object_id, None)

    def offer(self, object_id: bytes) -> None:
        """Make an idle object a candidate, at what it is expected to cost now."""
        entry = self._table.objects[object_id]
        if entry.copy:
            self.copies[object_id] = entry.nbytes
            return
        nbytes = entry.nbytes - entry.bytes_spilled
        ways = {}
        if cached := self._table.cache.entries.get(object_id):
            ways["drop"] = cached.seconds
        if self.could_spill:
            ways["spill"] = self._spiller.seconds(nbytes)
        self.queue.add(Candidate(object_id, nbytes, ways, self._since[object_id]))

    def look_at_disk(self) -> None:
        """Offer all of them anew if the disk has failed, or is usable again."""
        if self.could_spill != self._spiller.is_usable:
            self.could_spill = self._spiller.is_usable
            for object_id in self._since:
                self.offer(object_id)

    def want_on_disk(self, object_ids: Iterable[bytes]) -> None:
        """Note what is to be spilled as soon as it is idle. A hold takes that back."""
        objects = self._table.objects
        self._wanted_on_disk.update(
            dict.fromkeys(i for i in object_ids if i in objects and not objects[i].copy)
        )

    def wanted_on_disk(self) -> list[bytes]:
        """Return those that are to be spilled now."""
        self.wanted_came = False
        return [each for each in self._wanted_on_disk if each in self._since]

    def take(self, object_id: bytes) -> None:
        """Take one out of the candidates that is going to be spilled."""
        del self._wanted_on_disk[object_id]
        self.queue.discard(object_id)
