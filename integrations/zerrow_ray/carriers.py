"""Which reference carries the result that a thread serializes, as far as that can be known.

Ray names what a task returns after the task, in the order in which it serializes it: the first
result is number 1. Of a stream that is the stream itself, and the items begin with 2. Nothing says
which one is being serialized, so they are counted here, from the beginning of the task on.

A task that is run again has no carriers: Ray may do so after its references were gone, and nobody
says then when they are gone once more.
"""

import threading
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from zerrow_ray import ray_compat

_INDEX_BYTES = 4


@dataclass
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
_counting = False


def install() -> None:
    """Follow the bodies of this process's tasks. Once for a process, before its first task."""
    ray_compat.around_task_bodies(_starting, _ending)


def count(value: Any) -> None:
    """Note that Ray serializes a result or an item of a stream."""
    task = _current()
    if task is not None:
        task.count(value)


def begin_counting() -> None:
    """Note that `count` is called from now on: streams that have begun before were not counted."""
    global _counting
    _counting = True


def current_carrier() -> tuple[bytes, bytes] | None:
    """Return what carries the result that this thread serializes; None if that is not known.

    A reference's id, and the worker that owns it, which is empty if it is not known here.
    """
    task = _current()
    if task is None or task.index is None or task.attempt:
        return None
    reference = task.id + task.index.to_bytes(_INDEX_BYTES, "little")
    if task is _thread.results:
        return reference, b""
    # Ray has just named the item: it knows the owner of no other one that is to come.
    owner = ray_compat.owner_of(reference)
    return None if owner is None else (reference, owner)


def is_first_attempt() -> bool:
    """Whether what this thread serializes is of a task that runs for the first time, as far as that
    is known.
    """
    task = _current()
    return task is None or not task.attempt


def split(reference: bytes) -> tuple[bytes, int]:
    """Return a reference's task, and its number among what that returns."""
    task, index = reference[:-_INDEX_BYTES], reference[-_INDEX_BYTES:]
    return task, int.from_bytes(index, "little")


def stream_of(task: bytes) -> bytes:
    """Return the reference of a task's stream."""
    return task + (1).to_bytes(_INDEX_BYTES, "little")


def _current() -> _Task | None:
    streaming = ray_compat.streaming_task()
    if streaming is not None:
        return _async_tasks.get(streaming)
    return _thread.body or _thread.results


def _starting(task_id: bytes, attempt: int) -> None:
    _thread.results = None
    _thread.body = _Task(task_id, attempt, 1 if _counting else None)
    if ray_compat.is_async_actor():
        # Several tasks share the thread: whose plain generator runs is not known.
        _async_tasks[task_id], _thread.body = _thread.body, None


def _ending(task_id: bytes, attempt: int) -> None:
    # What a task returns is serialized right after this, by the same thread.
    _thread.results = _Task(task_id, attempt, 0)
    _thread.body = None
    _async_tasks.pop(task_id, None)
