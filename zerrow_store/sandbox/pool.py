"""A pool of warm sandboxes.

Each tenant has its own; others are spare. A tenant may see what its earlier calls left in a
sandbox's interpreter and caches. So a sandbox that served one tenant never serves another. Spare
sandboxes have served no tenant; when one is taken, the next one starts in the background. Idle
sandboxes end after a while.

Between two calls a sandbox needs some milliseconds, to end one call's processes and fork the next
one's. A tenant whose calls come faster gets more sandboxes, up to `_AHEAD`, which take turns.
"""

import atexit
import contextlib
import os
import threading
import time
from collections import defaultdict

from zerrow_store import forks, threads
from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.sandbox import inputs, stats
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.process import Sandbox

_IDLE_SECONDS = 60.0
_MOST_IDLE = 8
_AHEAD = 4

World = tuple[object, ...]


class Pool:
    """The sandboxes of a process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: defaultdict[tuple[str, World], list[tuple[Sandbox, float]]] = defaultdict(list)
        self._spare: dict[World, Sandbox] = {}
        self._closed = False
        self._starters: list[threading.Thread] = []
        self._watch: threading.Thread | None = None

    def take(self, tenant: str, options: SandboxOptions) -> Sandbox:
        """Return a sandbox for one call of this tenant.

        Raises
        ------
        SandboxUnavailableError
            None can be started.
        """
        while (sandbox := self._pop(tenant, options)) is not None:
            try:
                found = "warm" if sandbox.ready() else "waited"
                if sandbox.prepared():
                    stats.count(**{found: 1})
                    return sandbox
            except BaseException:  # interrupted
                sandbox.close()
                raise
            sandbox.close()  # an earlier call broke it, or it was killed
            stats.count(broken=1)
        stats.count(cold=1)
        sandbox = Sandbox(options)
        sandbox.wait()
        self._start_spare(options)
        return sandbox

    def _pop(self, tenant: str, options: SandboxOptions) -> Sandbox | None:
        """Return one of the tenant's idle sandboxes, a spare one, or None."""
        world = options.world()
        with self._lock:
            self._closed = False
            idle = [] if options.fresh else self._idle[tenant, world]
            for index, (sandbox, _) in enumerate(idle):
                if sandbox.ready():
                    return idle.pop(index)[0]
            if idle and (world not in self._spare or len(idle) >= _AHEAD):
                return idle.pop(0)[0]  # the one that is ready first
            if world in self._spare:
                self._start_spare(options)
            return self._spare.pop(world, None)

    def _start_spare(self, options: SandboxOptions) -> None:
        starter = threading.Thread(target=self._add_spare, args=(options,), daemon=True)
        with self._lock:
            self._starters = [each for each in self._starters if each.is_alive()]
            self._starters.append(starter)
            starter.start()

    def give_back(self, tenant: str, options: SandboxOptions, sandbox: Sandbox) -> None:
        """Keep a sandbox for the tenant's next call, or close it."""
        ending = []
        if not sandbox.usable:
            stats.count(broken=1)
        with self._lock:
            if not sandbox.usable or options.fresh or self._closed:
                ending.append(sandbox)
            else:
                sandbox.prepare()
                self._idle[tenant, options.world()].append((sandbox, time.monotonic()))
                if self._watch is None:
                    self._watch = threads.start(self._expire, name="zerrow-sandboxes")
            if sum(map(len, self._idle.values())) > _MOST_IDLE:
                longest = min(filter(None, self._idle.values()), key=lambda idle: idle[0][1])
                ending.append(longest.pop(0)[0])
        for each in ending:
            each.close()

    def close(self) -> None:
        """Close all sandboxes that run no call."""
        with self._lock:
            self._closed = True
            ending = [s for idle in self._idle.values() for s, _ in idle]
            ending += self._spare.values()
            self._idle.clear()
            self._spare.clear()
            starters, self._starters = self._starters, []
        for starter in starters:
            starter.join()
        for sandbox in ending:
            sandbox.close()

    def abandon(self) -> None:
        """Close a forked child's descriptors of its parent's sandboxes."""
        for idle in self._idle.values():
            for sandbox, _ in idle:
                sandbox.abandon()
        for sandbox in self._spare.values():
            sandbox.abandon()

    def _add_spare(self, options: SandboxOptions) -> None:
        world = options.world()
        # The error is raised again when a sandbox is taken.
        with contextlib.suppress(SandboxUnavailableError):
            sandbox = Sandbox(options)
            sandbox.wait()
            sandbox.prepare()
            with self._lock:
                unwanted = self._closed or world in self._spare
                if not unwanted:
                    self._spare = {world: sandbox, **self._spare}
                surplus = [sandbox] if unwanted else []
                while len(self._spare) > 2:
                    surplus.append(self._spare.popitem()[1])
            for each in surplus:
                each.close()

    def _expire(self) -> None:
        while True:
            time.sleep(_IDLE_SECONDS / 10)
            limit = time.monotonic() - _IDLE_SECONDS
            ending = []
            with self._lock:
                for key, idle in list(self._idle.items()):
                    ending += [sandbox for sandbox, since in idle if since < limit]
                    self._idle[key] = [entry for entry in idle if entry[1] >= limit]
                    if not self._idle[key]:
                        del self._idle[key]
            for sandbox in ending:
                sandbox.close()


_pool = Pool()
_pid = os.getpid()


def current() -> Pool:
    """Return this process's pool."""
    return _pool


def close() -> None:
    """Close this process's idle sandboxes and drop its copies of inputs. Later calls start anew."""
    _pool.close()
    inputs.forget()


def _after_fork_in_child() -> None:
    global _pool
    previous, _pool = _pool, Pool()
    previous.abandon()


def _at_exit() -> None:
    if os.getpid() == _pid:
        close()


forks.register(in_child=_after_fork_in_child)
atexit.register(_at_exit)
