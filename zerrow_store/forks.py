"""Forks: what a forked child needs of this package, in one place.

Only the thread that forks lives on in the child. A lock that another one held would stay locked
there for ever, so every lock is a `Lock` of this module, which the child finds free,
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
from typing import Any

_CLock: Any = type(threading.RLock())
_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()
_before: list[Callable[[], None]] = []
_in_parent: list[Callable[[], None]] = []
_in_child: list[Callable[[], None]] = []


class Lock(_CLock):  # type: ignore[misc]  # C has it, typing has not
    """A lock for `with` statements that a forked child finds free, and that its thread may take
    again; see the module.

    `with` enters and leaves it in C: a signal's handler, or an exception that another thread has
    sent (Ray cancels tasks by that), comes before or after, and never leaves it locked.
    """

    def __init__(self) -> None:
        _locks.add(self)

    def renew(self) -> None:
        """In a child: be free, unless this thread has it."""
        if not self._is_owned():
            self._at_fork_reinit()


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
