"""Leases of what streaming generators yield: their producer keeps them until all know of them.

The lease in a task's result is known to the result's owner, who has known of the result since it
submitted the task. Of a streaming generator's item the owner learns from the producer, and of the
lease in it from the lease's owner. If that is quicker, it answers that it has no such item, and the
lease ends while the item lives (Ray 2.60, ReferenceCounter::SubscribeRefRemoved). So the producer
keeps such a lease until the generator's task ends, when all items have been acknowledged, but no
longer than a moment: what is consumed while a long stream goes on is to be freed. If it is killed
in that moment, the store keeps the object (see `zerrow_store.node.settling`).

Who still keeps a lease when it is given the item as an argument says so to the item's owner, and
never again to the lease's (Ray 2.60, GetAndClearLocalBorrowersInternal): such leases it keeps for
good. Only actors with concurrent calls can meet that.
"""

import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.worker import Worker

from zerrow_store.node.client import Client
from zerrow_store.node.settling import SETTLING_SECONDS


@dataclass(eq=False)
class _Kept:
    """A lease that is kept, and until when at most; None once it was let go."""

    lease: ray.ObjectRef | None
    until: float
    settled: Callable[[], None]
    for_good: bool = False

    def let_go(self) -> None:
        if self.lease is not None and not self.for_good:
            self.lease = None
            self.settled()


class _Thread(threading.local):
    """Whether this thread runs a task's body, None if it never has; what that has yielded."""

    executing: bool | None = None
    kept: list[_Kept]


_thread = _Thread()
_kept: weakref.WeakValueDictionary[bytes, _Kept] = weakref.WeakValueDictionary()
_for_good: list[_Kept] = []


def keep(lease: ray.ObjectRef, client: Client) -> None:
    """Keep the lease of what is being serialized as a result, if that is an item of a stream."""
    if not _is_item():
        return
    object_id: bytes = lease.binary()
    client.settling(object_id)
    settled = functools.partial(client.settled, object_id)
    kept = _Kept(lease, time.monotonic() + SETTLING_SECONDS, settled)
    _kept[object_id] = kept
    if _thread.executing:
        _thread.kept.append(kept)
    _timer().put(kept)


def received(lease: ray.ObjectRef | None) -> None:
    """Note that an item was given to this process, which may keep its lease: see the module."""
    kept = _kept.get(lease.binary()) if lease is not None else None
    if kept is not None and kept.lease is not None:
        kept.for_good = True
        _for_good.append(kept)


@functools.cache
def install() -> None:
    """Wrap what Ray calls around a task's body. Once for a process, before its first task."""
    Worker.record_task_log_start = _starting(Worker.record_task_log_start)
    Worker.record_task_log_end = _ending(Worker.record_task_log_end)


def _is_item() -> bool:
    # A task's own results are serialized after its body has ended, what it yields before.
    if _thread.executing is not None:
        return _thread.executing
    # An async generator's items are serialized in threads that run no bodies.
    is_asyncio: bool = ray._private.worker.global_worker.core_worker.current_actor_is_asyncio()
    return is_asyncio


def _starting(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def record_task_log_start(*args: Any, **kwargs: Any) -> None:
        _thread.executing, _thread.kept = True, []
        original(*args, **kwargs)

    return record_task_log_start


def _ending(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def record_task_log_end(*args: Any, **kwargs: Any) -> None:
        if _thread.executing:
            _thread.executing = False
            for kept in _thread.kept:
                kept.let_go()
            _thread.kept = []
        original(*args, **kwargs)

    return record_task_log_end


@functools.cache
def _timer() -> "queue.SimpleQueue[_Kept]":
    """Return the queue of a thread that lets go of what is in it in time."""
    waiting: queue.SimpleQueue[_Kept] = queue.SimpleQueue()

    def let_go() -> None:
        while True:
            kept = waiting.get()
            time.sleep(max(0.0, kept.until - time.monotonic()))
            kept.let_go()
            del kept

    threading.Thread(target=let_go, name="zerrow-streams", daemon=True).start()
    return waiting
