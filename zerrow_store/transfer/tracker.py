"""The tracker, which tells each receiver of a large object where to read it: a broadcast.

The machine that an object's message names is its *source*. A receiver of a large object asks the
source where to read. As long as no other machine has a copy, the source names itself; then it
names copies. Each place is read by `_MOST_READERS` receivers at a time; a receiver that finds none
free waits. So the source sends two copies, however many receivers there are.

A receiver is connected to the source while it waits or reads, and keeps saying that it is alive.
Its turn ends with its connection. Once it has the object, it stays connected and keeps its copy
until no other receiver waits or reads. Only complete copies are named, and a receiver has its
memory before it asks, so no receiver ever waits for one that is itself waiting.

After a broadcast, the known copies are hints: a copy goes when memory is short, and nobody reports
that. A receiver that cannot read a copy says so; the source forgets that copy and names another
place.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field

from zerrow_store.errors import ObjectNotFoundError, ZerrowError
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import WORKING_SECONDS, Channel
from zerrow_store.transfer.segment_files import FileClient

_MOST_READERS = 2
"""How many receivers read one copy at a time. One can fill a link, but a slow one would hold up
all others."""

_FIRST_SWEEP = 64
_HERE = ""


@dataclass
class _Tracked:
    """What is known of an object.

    copies: the locations of copies, the latest last. reading: how many receivers read at each
    place. seekers: how many receivers wait or read.
    """

    changed: threading.Condition
    copies: dict[str, None] = field(default_factory=dict)
    reading: Counter[str] = field(default_factory=Counter)
    seekers: int = 0

    def free(self) -> list[str]:
        """Return the places where a receiver may read now, the likeliest to have a copy last."""
        places = list(self.copies) or [_HERE]
        return [place for place in places if self.reading[place] < _MOST_READERS]


class Tracker:
    """See the module. Safe to use from any thread."""

    def __init__(self, client: FileClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._objects: dict[bytes, _Tracked] = {}
        self._sweep_at = _FIRST_SWEEP

    def serve(self, channel: Channel, seek: m.Seek) -> None:
        """Tell a receiver where to read, until it has the object or hangs up. Raises OSError,
        ProtocolError.
        """
        try:
            hold = self._client.hold(seek.object_id)
            tracked = self._enter(seek)
        except ZerrowError as error:
            channel.send(m.Refused(str(error)[:1000], isinstance(error, ObjectNotFoundError)))
            return
        try:
            while not self._assign(channel, tracked, seek.location):
                pass
        finally:
            self._leave(seek.object_id, tracked)
            del hold  # not earlier: this machine may have to send the object
        if seek.location:
            self._stay(channel, tracked)

    def retain(self, locations: set[str]) -> None:
        """Forget the copies at all other locations: their machines, or agents, are gone."""
        with self._lock:
            for object_id, tracked in list(self._objects.items()):
                for location in tracked.copies.keys() - locations:
                    del tracked.copies[location]
                tracked.changed.notify_all()
                self._forget_unused(object_id, tracked)

    def _enter(self, seek: m.Seek) -> _Tracked:
        self._sweep()
        with self._lock:
            if seek.object_id not in self._objects:
                self._objects[seek.object_id] = _Tracked(threading.Condition(self._lock))
            tracked = self._objects[seek.object_id]
            tracked.seekers += 1
            tracked.copies.pop(seek.location, None)  # its copy is gone, or it would not ask
            return tracked

    def _leave(self, object_id: bytes, tracked: _Tracked) -> None:
        with self._lock:
            tracked.seekers -= 1
            tracked.changed.notify_all()
            self._forget_unused(object_id, tracked)

    def _forget_unused(self, object_id: bytes, tracked: _Tracked) -> None:
        if not tracked.seekers and not tracked.copies:
            del self._objects[object_id]

    def _assign(self, channel: Channel, tracked: _Tracked, location: str) -> bool:
        """Give the receiver at `location` a turn; return whether it has a copy now."""
        place = self._wait(channel, tracked)
        landed = None
        try:
            channel.send(m.At(place))
            landed = _outcome(channel)
        finally:
            with self._lock:
                tracked.reading[place] -= 1
                if landed and location:
                    tracked.copies[location] = None
                if landed is False:
                    tracked.copies.pop(place, None)
                tracked.changed.notify_all()
        return landed

    def _stay(self, channel: Channel, tracked: _Tracked) -> None:
        """Have a receiver keep its copy while others wait or read: its own readers may be done."""
        while True:
            with self._lock:
                if tracked.changed.wait_for(lambda: not tracked.seekers, WORKING_SECONDS):
                    return
            channel.send(m.Working())

    def _wait(self, channel: Channel, tracked: _Tracked) -> str:
        """Take a place as soon as one is free; return it."""
        while True:
            with self._lock:
                if free := tracked.changed.wait_for(tracked.free, WORKING_SECONDS):
                    tracked.reading[free[-1]] += 1
                    return free[-1]
            channel.send(m.Working())

    def _sweep(self) -> None:
        """Forget objects that are gone, once many are known."""
        with self._lock:
            if len(self._objects) < self._sweep_at:
                return
            idle = [object_id for object_id, each in self._objects.items() if not each.seekers]
        gone = self._client.watch(idle)
        with self._lock:
            for object_id in gone:
                if object_id in self._objects and not self._objects[object_id].seekers:
                    del self._objects[object_id]
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._objects))


def _outcome(channel: Channel) -> bool:
    while isinstance(said := channel.receive(m.SOUGHT), m.Working):
        pass
    return said.landed
