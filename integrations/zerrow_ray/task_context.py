"""What a thread knows of the Ray task that it runs.

That is above all which result it serializes: the reference of a result carries the object that the
result is stored as. Ray numbers a task's results in the order in which it serializes them (see
`references`), and does not say which one it is serializing. So they are counted here, from the
beginning of the task.

Tasks of an async actor share a thread. Ray tells which async generator yields an item. An item of a
plain generator may come after the end of another task, and would be taken for that task's result;
so an actor with plain generators has carriers for the items of async generators only.

A task that is run again has no carriers. Ray may run it again after its references have gone out of
scope, and then nobody says when they do so once more.
"""

import functools
import inspect
import threading
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.exceptions import RayError

from zerrow_ray import ray_compat
from zerrow_ray.references import reference

_UNIQUE_BYTES = 8
"""Of a task's id. The rest of it names the actor and the job, which most often have one caller."""


class Carrier(NamedTuple):
    """The id of the reference that carries an object, and what is known of its owner.

    The fields are those of `zerrow_store.protocol.messages.Carrier`, which would load the store in
    every worker.
    """

    reference: bytes
    owner_id: bytes = b""
    node: bytes = b""
    group: bytes = b""


@dataclass(slots=True)
class _Task:
    """A task whose results are being serialized.

    index: the number of the last one; None if it is not known.
    """

    id: bytes
    attempt: int
    index: int | None

    def count(self, value: Any) -> None:
        # If a result cannot be serialized, Ray serializes an error for each result, from the first.
        is_error = isinstance(value, RayError)
        self.index = None if self.index is None or is_error else self.index + 1


class Publications(list[bytes]):
    """Ids of objects. A plain list cannot be referred to weakly."""


class _Thread(threading.local):
    """body: the task that runs, whose items may be serialized. results: the task that ended last,
    whose results are. recorder: see `record_publications`.
    """

    body: _Task | None = None
    results: _Task | None = None
    recorder: "weakref.ref[Publications] | None" = None


_thread = _Thread()
_async_tasks: dict[bytes, _Task] = {}


def count(value: Any) -> None:
    """Note that Ray serializes a result or an item of a stream."""
    task = _current()
    if task is not None:
        task.count(value)


def current_carrier() -> Carrier | None:
    """Return what carries the result that this thread serializes; None if that is not known.

    The owner of an item is known here, the owner of a result is not.
    """
    task = _current()
    if task is None or task.index is None or task.attempt:
        return None
    carrying = reference(task.id, task.index)
    group = task.id[_UNIQUE_BYTES:]
    if task is _thread.results:
        return Carrier(carrying, group=group)
    # Ray knows the owner of an item that it has just named, and of no later one.
    owner = ray_compat.owner_of(carrying)
    return None if owner is None else Carrier(carrying, *owner, group)


def record_publications() -> Publications:
    """Return a list of the objects that this thread publishes for others from now on.

    These are those of its task's results, published as Ray serializes them. The list grows until
    nobody refers to it any more, or until the next call.
    """
    published = Publications()
    _thread.recorder = weakref.ref(published)
    return published


def note_publication(object_id: bytes) -> None:
    """Note that this thread has published an object for others."""
    published = None if _thread.recorder is None else _thread.recorder()
    if published is not None:
        published.append(object_id)


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
        # Several tasks share the thread, so the task of a plain generator's item is not known.
        _async_tasks[task_id] = task
    else:
        _thread.body = task


def ending(task_id: bytes, attempt: int) -> None:
    """See `ray_compat.TaskHooks`."""
    # The results are serialized right after this, by the same thread.
    _thread.results = _Task(task_id, attempt, 0)
    _thread.body = None
    _async_tasks.pop(task_id, None)
