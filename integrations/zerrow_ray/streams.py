"""Leases of what streaming generators yield: their producer keeps them until others have them.

The lease in a task's result is known to the result's owner, who has known of the result since it
submitted the task. Of a streaming generator's item the owner learns from the producer, and of the
lease in it from the lease's owner. If that is quicker, it answers that it has no such item, and the
lease ends while the item lives (Ray 2.60, ReferenceCounter::SubscribeRefRemoved). So the producer
keeps such a lease until somebody reads the item, which a reader has from its owner, or the
generator's body has ended, when all items have been acknowledged. If it is killed before, the store
keeps the object (see `zerrow_store.node.settling`).

Who still keeps a lease when it is given the item as an argument says so to the item's owner, and
never again to the lease's (Ray 2.60, GetAndClearLocalBorrowersInternal): such leases it keeps for
good. Only actors with concurrent calls can meet that.
"""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from zerrow_ray import ray_compat

if TYPE_CHECKING:
    from zerrow_store.node.client import Client


@dataclass(eq=False)
class _Kept:
    """The lease of an item; None once it was let go. tasks: those whose bodies have to end first,
    one of which yielded it.
    """

    lease: ray.ObjectRef | None
    tasks: set[bytes]
    client: "Client"
    for_good: bool = False

    def let_go(self) -> None:
        lease = self.lease
        if lease is not None and not self.for_good:
            self.lease = None
            _by_id.pop(lease.binary(), None)
            self.client.settled(lease.binary())


class _Thread(threading.local):
    """The tasks whose bodies this thread runs: of an async actor's, several at once."""

    def __init__(self) -> None:
        self.tasks: set[bytes] = set()


_thread = _Thread()
_by_id: dict[bytes, _Kept] = {}


def keep(lease: ray.ObjectRef, client: "Client") -> None:
    """Keep the lease of what is being serialized as a result, if that is an item of a stream."""
    streaming = ray_compat.streaming_task()
    tasks = set(_thread.tasks) if streaming is None else {streaming}
    if tasks:
        object_id: bytes = lease.binary()
        kept = _by_id[object_id] = _Kept(lease, tasks, client)
        client.settling(object_id, kept.let_go)


def received(lease: ray.ObjectRef | None) -> None:
    """Note that an item was given to this process, which may keep its lease: see the module."""
    kept = _by_id.get(lease.binary()) if lease is not None else None
    if kept is not None:
        kept.for_good = True


def install() -> None:
    """Follow the bodies of this process's tasks. Once for a process, before its first task."""
    ray_compat.around_task_bodies(_starting, _ending)


def _starting(task_id: bytes, attempt: int) -> None:
    del attempt
    _thread.tasks.add(task_id)


def _ending(task_id: bytes, attempt: int) -> None:
    del attempt
    _thread.tasks.discard(task_id)
    for kept in list(_by_id.values()):
        kept.tasks.discard(task_id)
        if not kept.tasks:
            kept.let_go()
