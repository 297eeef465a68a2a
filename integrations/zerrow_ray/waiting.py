"""Waiting as `ray.wait` does: what is ready is on this node with its data, not its message alone.

Ray goes on bringing what was waited for, also after `ray.wait` has returned: so is the data of a
reference that was not ready fetched as soon as its message is here. A thread looks for these
messages, without references of its own, which would keep them alive.
"""

import contextlib
import queue
import time
from concurrent.futures import wait as wait_for
from typing import Any

import ray

from zerrow_ray import fetching, ray_compat
from zerrow_store import forks, threads

_SHORTEST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0
_MOST_DONE = 10_000
_LESS_OFTEN = 20
"""A look is followed by a pause of so many times its length, and by one of so many parts of the
time for which nothing has come."""


def wait(
    waits: ray_compat.Waits, waited: list[Any], num_returns: int, timeout: float | None
) -> tuple[list[Any], list[Any]]:
    """Wait as `ray.wait` does with `fetch_local`."""
    end = None if timeout is None else time.monotonic() + timeout
    ready, rest = waits(waited, num_returns, timeout)
    _watch.add(rest)
    late = _late(ready, end)
    if not late:
        return ready, rest
    here = set(ready) - late
    if rest:  # others may be here by now: as many are asked for
        others, _ = waits(rest, len(rest), 0)
        late = _late(others, end)
        here.update([each for each in others if each not in late][: num_returns - len(here)])
    return [each for each in waited if each in here], [each for each in waited if each not in here]


def _late(ready: list[Any], end: float | None) -> set[Any]:
    """Return those of these references whose data is not here at this time."""
    of = {ray_compat.waited_for(each): each for each in ready}
    coming = {
        of[ref]: fetching.begin(far, look_first=True)
        for ref, message in ray_compat.messages_of([*of])
        if (far := fetching.far(message)) is not None
    }
    left = None if end is None else max(end - time.monotonic(), 0)
    late = wait_for([each for futures in coming.values() for each in futures], left).not_done
    return {each for each, futures in coming.items() if not late.isdisjoint(futures)}


class _Watch:
    """A thread that looks for messages of references, as long as this process knows these.

    _known: those that are looked for, and the latest ones that need not be.
    """

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child, which has no such thread."""
        self._added: queue.SimpleQueue[set[bytes]] = queue.SimpleQueue()
        self._known: set[bytes] = set()
        self._is_started = False

    def add(self, waited: list[Any]) -> None:
        """Look for the messages of these references, too, unless that was done before."""
        # There may be thousands, at each of thousands of calls: Python's own loops would show.
        if {*map(type, waited)} - {ray.ObjectRef}:  # streams
            waited = [each for each in waited if isinstance(each, ray.ObjectRef)]
        references = {*map(ray.ObjectRef.binary, waited)}
        with self._lock:
            new = references - self._known
            self._known |= new
            if new and not self._is_started:
                self._is_started = True
                threads.start(self._run, name="zerrow-watch")
        if new:
            self._added.put(new)

    def _run(self) -> None:
        watched: set[bytes] = set()
        changed = not_before = time.monotonic()
        pause = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                watched.update(self._added.get(timeout=pause if watched else None))
                changed = time.monotonic()
            time.sleep(max(not_before - time.monotonic(), 0))
            while not self._added.empty():
                watched.update(self._added.get())
            began = time.monotonic()
            if came := _look(watched):
                watched -= came
                changed = began
                if len(self._known) > len(watched) + _MOST_DONE:
                    with self._lock:
                        self._known = watched.copy()
            now = time.monotonic()
            not_before = now + (now - began) * _LESS_OFTEN
            pause = max(not_before - now, (now - changed) / _LESS_OFTEN, _SHORTEST_PAUSE_SECONDS)
            pause = min(pause, _LONGEST_PAUSE_SECONDS)


def _look(references: set[bytes]) -> set[bytes]:
    """Begin to fetch for those of these references whose messages are here. Return them, with those
    that this process does not know any more.
    """
    with ray_compat.connection() as connected:
        if not connected:
            return references
        known = {each for each in references if ray_compat.owner_of(each) is not None}
        arrived = ray_compat.arrived([ray_compat.uncounted_ref(each) for each in known])
        found = [fetching.far(message) for _, message in ray_compat.messages_of(arrived)]
    for far in filter(None, found):  # not before: see `begin`
        fetching.begin(far)
    return (references - known).union(ref.binary() for ref in arrived)


_watch = _Watch()

forks.register(in_child=_watch.forget)
