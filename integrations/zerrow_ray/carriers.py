"""Which reference carries the result that a thread serializes, as far as that can be known.

Ray names what a task returns after the task, in the order in which it serializes it: the first
result is number 1. Of a stream that is the stream itself, and the items begin with 2. Nothing says
which one is being serialized, so they are counted here, from the beginning of the task on.

Tasks of an async actor share a thread. What an async generator yields is told apart; what a plain
one does may come after another task's end, and would be taken for what that one returns. So an
actor that has plain generators has no other carriers than those of async ones.

A task that is run again has no carriers: Ray may do so after its references were gone, and nobody
says then when they are gone once more.
"""

import functools
import inspect
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.exceptions import RayError

from zerrow_ray import ray_compat

_INDEX_BYTES = 4
_UNIQUE_BYTES = 8
"""Of a task's id; what follows is its actor and job, which most often have one caller."""


class Carrier(NamedTuple):
    """A reference's id, and what is known of its owner: see `Carrier` in
    `zerrow_store.protocol.messages`.

    That one would load the store in every worker.
    """

    reference: bytes
    owner_id: bytes = b""
    node: bytes = b""
    group: bytes = b""


@dataclass(slots=True)
class _Task:
    """A task whose results are serialized. index: of the last one; None if it is not known."""

    id: bytes
    attempt: int
    index: int | None

    def count(self, value: Any) -> None:
        # Of results that cannot be serialized an error takes the place, from the first one on.
        is_error = isinstance(value, RayError)
        self.index = None if self.index is None or is_error else self.index + 1


class _Thread(threading.local):
    """body: the task that runs, whose items are serialized; results: the one that has run last."""

    body: _Task | None = None
    results: _Task | None = None


_thread = _Thread()
_async_tasks: dict[bytes, _Task] = {}


def count(value: Any) -> None:
    """Note that Ray serializes a result or an item of a stream."""
    task = _current()
    if task is not None:
        task.count(value)


def current_carrier() -> Carrier | None:
    """Return what carries the result that this thread serializes; None if that is not known.

    A result's owner is not known here, an item's is.
    """
    task = _current()
    if task is None or task.index is None or task.attempt:
        return None
    reference = _reference(task.id, task.index)
    group = task.id[_UNIQUE_BYTES:]
    if task is _thread.results:
        return Carrier(reference, group=group)
    # Ray has just named the item: it knows the owner of no other one that is to come.
    owner = ray_compat.owner_of(reference)
    return None if owner is None else Carrier(reference, *owner, group)


def split(reference: bytes) -> tuple[bytes, int]:
    """Return a reference's task, and its number among what that returns."""
    task, index = reference[:-_INDEX_BYTES], reference[-_INDEX_BYTES:]
    return task, int.from_bytes(index, "little")


def stream_of(task: bytes) -> bytes:
    """Return the reference of a task's stream."""
    return _reference(task, 1)


def _reference(task: bytes, index: int) -> bytes:
    return task + index.to_bytes(_INDEX_BYTES, "little")


def _current() -> _Task | None:
    streaming = ray_compat.streaming_task()
    if streaming is not None:
        return _async_tasks.get(streaming)
    task = _thread.body or _thread.results
    return None if task is not None and _may_be_of_another_task() else task


def _may_be_of_another_task() -> bool:
    if not ray_compat.is_async_actor():
        return False
    return _has_plain_generators(type(ray_compat.actor()))  # type: ignore[arg-type]


@functools.cache
def _has_plain_generators(cls: type) -> bool:
    methods = (inspect.unwrap(method) for _, method in inspect.getmembers(cls, callable))
    return any(inspect.isgeneratorfunction(method) for method in methods)


def starting(task_id: bytes, attempt: int) -> None:
    """See `ray_compat.TaskHooks`."""
    _thread.results = None
    task = _Task(task_id, attempt, 1)
    if ray_compat.is_async_actor():
        # Several tasks share the thread: whose plain generator runs is not known.
        _async_tasks[task_id] = task
    else:
        _thread.body = task


def ending(task_id: bytes, attempt: int) -> None:
    """See `ray_compat.TaskHooks`."""
    # What a task returns is serialized right after this, by the same thread.
    _thread.results = _Task(task_id, attempt, 0)
    _thread.body = None
    _async_tasks.pop(task_id, None)
