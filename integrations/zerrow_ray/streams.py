"""Leases of what streaming generators yield: their producer keeps them until all know of them.

The lease in a task's result is known to the result's owner, who has known of the result since it
submitted the task. Of a streaming generator's item the owner learns from the producer, and of the
lease in it from the lease's owner. If that is quicker, it answers that it has no such item, and the
lease ends while the item lives (Ray 2.60, ReferenceCounter::SubscribeRefRemoved). So the producer
keeps such a lease for a moment. If it is killed in that moment, the store keeps the object (see
`zerrow_store.node.settling`).
"""

import functools
import inspect
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._private.function_manager import FunctionActorManager

from zerrow_store.node.settling import SETTLING_SECONDS


class _Context(threading.local):
    streaming = False


_context = _Context()


def is_streaming() -> bool:
    """Whether what is serialized in this thread as a result may be an item of a generator."""
    core_worker = ray._private.worker.global_worker.core_worker
    # An async generator's items are serialized in threads of a pool, those of all calls alike.
    return _context.streaming or core_worker.current_actor_is_asyncio()


class LingeringLeases:
    """Leases that this process keeps for `SETTLING_SECONDS`."""

    def __init__(self) -> None:
        self._leases: queue.SimpleQueue[tuple[float, ray.ObjectRef]] = queue.SimpleQueue()
        self._settled = 0.0
        threading.Thread(target=self._let_go, name="zerrow-lingering", daemon=True).start()

    def keep(self, lease: ray.ObjectRef) -> None:
        """Keep a lease for a moment."""
        self._settled = time.monotonic() + SETTLING_SECONDS
        self._leases.put((self._settled, lease))

    def wait(self) -> None:
        """Wait until no lease is kept, and Ray has said so."""
        time.sleep(max(0.0, self._settled + 0.1 - time.monotonic()))

    def _let_go(self) -> None:
        while True:
            until, lease = self._leases.get()
            time.sleep(max(0.0, until - time.monotonic()))
            del lease


@functools.cache
def lingering_leases() -> LingeringLeases:
    """Return those of this process. Ray's workers do not fork."""
    return LingeringLeases()


@functools.cache
def install() -> None:
    """Wrap what Ray executes for tasks and methods. Once for a process, before its first task."""
    FunctionActorManager.get_execution_info = _wrapper(FunctionActorManager.get_execution_info)


def _wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_execution_info(*args: Any, **kwargs: Any) -> Any:
        info = original(*args, **kwargs)
        return info._replace(function=_noting(info.function, ends=info.max_calls > 0))

    return get_execution_info


def _noting(function: Callable[..., Any], *, ends: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def execute(*args: Any, **kwargs: Any) -> Any:
        # Not what an earlier task of this thread has left.
        _context.streaming = False
        outcome = function(*args, **kwargs)
        _context.streaming = inspect.isgenerator(outcome)
        return _ending(outcome) if ends and _context.streaming else outcome

    return execute


def _ending(stream: Iterator[Any]) -> Iterator[Any]:
    """What a stream yields, in a worker that may end with it: not before the leases are let go."""
    yield from stream
    lingering_leases().wait()
