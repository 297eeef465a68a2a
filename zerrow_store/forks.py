"""Forks: what a forked child needs of this package, in one place.

Only the thread that forks lives on in the child. A lock that another one held would stay locked
there for ever, so every lock is a `Lock` or `RLock` of this module, which the child finds free,
unless it is the forking thread's own. What a lock guards may be half changed then: whoever has it
says with `register` how it begins anew, or changes it by single operations only.

In the child the locks are renewed first; then the functions run, in the order in which they were
given. Nothing is locked before a fork: a thread that waits for a store that hangs must not keep its
process from forking.
"""

import os
import threading
import weakref
from collections.abc import Callable

_locks: "weakref.WeakSet[Lock | RLock]" = weakref.WeakSet()
_before: list[Callable[[], None]] = []
_in_parent: list[Callable[[], None]] = []
_in_child: list[Callable[[], None]] = []


class Lock:
    """A lock for `with` statements that a forked child finds free; see the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = 0
        self._lock.release()

    def renew(self) -> None:
        """In a child: be free, unless this thread has it."""
        if self._owner != threading.get_ident():
            self._lock, self._owner = threading.Lock(), 0


class RLock:
    """One that its thread may take again."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owners: list[int] = []
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owners.append(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        self._owners.pop()
        self._lock.release()

    def renew(self) -> None:
        """In a child: be free, unless this thread has it."""
        if threading.get_ident() not in self._owners:
            self._lock, self._owners = threading.RLock(), []


def register(
    *,
    before: Callable[[], None] | None = None,
    in_parent: Callable[[], None] | None = None,
    in_child: Callable[[], None] | None = None,
) -> None:
    """Have functions called around every fork: before it, and after it in the parent or child."""
    for function, functions in (before, _before), (in_parent, _in_parent), (in_child, _in_child):
        if function is not None:
            functions.append(function)


def _run(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _begin_child() -> None:
    for lock in list(_locks):
        lock.renew()
    _run(_in_child)


os.register_at_fork(
    before=lambda: _run(_before),
    after_in_parent=lambda: _run(_in_parent),
    after_in_child=_begin_child,
)
