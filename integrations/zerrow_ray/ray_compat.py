"""Ray's private names, all in this file: where the plugin hooks in, and what it takes from Ray.

`missing` compares what the hooks expect with the Ray that is there. A Ray that lacks anything is
used without the plugin. Each hook is installed once for a process, and changes nothing for what its
function declines.
"""

import concurrent.futures
import concurrent.futures.thread
import contextvars
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from enum import Enum, auto
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray._private.function_manager
import ray._private.serialization
import ray.actor
import ray.cloudpickle
import ray.remote_function
import ray.util.client
from ray import ObjectRefGenerator
from ray._private.serialization import SerializationContext
from ray._private.worker import Worker
from ray.core.generated.common_pb2 import Address

_EXPECTED = {
    "ray._private.worker:Worker.put_object": ["self", "value"],
    "ray._private.worker:Worker.main_loop": ["self"],
    "ray._private.worker:Worker.record_task_log_start": ["self", "task_id", "attempt_number"],
    "ray._private.worker:Worker.record_task_log_end": ["self", "task_id", "attempt_number"],
    "ray._private.worker:_post_init_hooks": None,
    "ray._private.worker:global_worker": None,
    "ray._private.worker:_global_node": None,
    "ray._private.serialization:SerializationContext.serialize": ["self", "value"],
    "ray._private.serialization:SerializationContext._serialize_to_pickle5": [
        "self",
        "metadata",
        "value",
    ],
    "ray._private.serialization:SerializationContext.set_in_band_serialization": ["self"],
    "ray._private.serialization:SerializationContext.set_out_of_band_serialization": ["self"],
    "ray._private.serialization:SerializationContext.get_and_clear_contained_object_refs": ["self"],
    "ray._private.serialization:Pickle5Writer.buffer_callback": None,
    "ray._private.serialization:Pickle5SerializedObject": None,
    "ray._private.function_manager:FunctionExecutionInfo.max_calls": None,
    "ray._private.worker:global_worker.function_actor_manager.execution_infos": None,
    "ray._private.function_manager:pickle_dumps": ["obj", "error_msg"],
    "ray.remote_function:pickle_dumps": ["obj", "error_msg"],
    "ray.remote_function:RemoteFunction._remote": ["self", "args", "kwargs"],
    "ray.remote_function:RemoteFunction.__init__": ["self", "language", "function"],
    "ray:ObjectRef._set_id": None,
    "ray._private.object_ref_generator:ObjectRefGenerator._next_sync": ["self", "timeout_s"],
    "ray._private.object_ref_generator:ObjectRefGenerator._next_async": ["self", "timeout_s"],
    "ray._private.object_ref_generator:ObjectRefGenerator._get_next_ref_n": ["self", "num_refs"],
    "ray._private.object_ref_generator:ObjectRefGenerator._consume_next_ref_n": [
        "self",
        "num_refs",
    ],
    "ray.actor:ActorClass._remote": ["self", "args", "kwargs"],
    "ray.actor:ActorHandle._actor_method_call": ["self", "method_name", "args", "kwargs"],
    "ray.cloudpickle:CloudPickler.dispatch_table": None,
    "ray._raylet:CoreWorker.add_object_out_of_scope_callback": None,
    "ray._raylet:CoreWorker.current_actor_is_asyncio": None,
    "ray._raylet:CoreWorker.get_current_job_id": None,
    "ray._raylet:CoreWorker.get_current_root_detached_actor_id": None,
    "ray._raylet:CoreWorker.get_owner_address": None,
    "ray._raylet:CoreWorker.get_worker_id": None,
    "ray._raylet:CoreWorker.get_event_loop_executor": None,
    "ray._raylet:CoreWorker.reset_event_loop_executor": None,
    "ray._raylet:async_task_id": None,
}
"""Private names by module, each with the first parameters it has to take."""

ARROW_REDUCERS = "ray._private.arrow_serialization"
"""The module of Ray's own reducers of Arrow data."""


def missing() -> list[str]:
    """Return the names of `_EXPECTED` that this Ray lacks, or that take other parameters."""
    return [name for name, parameters in _EXPECTED.items() if not _is_there(name, parameters)]


def _is_there(name: str, parameters: list[str] | None) -> bool:
    module, _, path = name.partition(":")
    try:
        found: Any = functools.reduce(getattr, path.split("."), import_module(module))
    except (ImportError, AttributeError):
        return False
    if parameters is None or not callable(found):
        return parameters is None
    return list(inspect.signature(found).parameters)[: len(parameters)] == parameters


class Purpose(Enum):
    """What Ray serializes an object for."""

    PUT = auto()
    RESULT = auto()


Dumps = Callable[[Purpose, Any, Callable[[Any], Any]], bytes]


def serialize_through(dumps: Dumps, count: Callable[[Any], None]) -> None:
    """Let `dumps(purpose, value, take_buffer)` pickle what Ray serializes of puts and results.

    count: called before each result, and each item of a stream.

    It is called while Ray collects the references that the value contains, and hands each
    out-of-band buffer to `take_buffer`. All else takes Ray's own path: closures, plain pickling,
    channels of compiled graphs, arguments.
    """
    serialize = SerializationContext.serialize
    to_pickle5 = SerializationContext._serialize_to_pickle5
    put_code = Worker.put_object.__code__
    # Ray's compiled code calls `serialize` for results. Below it are the loop of a worker's main
    # thread, the thread that reports an async generator's items, or nothing at all.
    result_codes = {Worker.main_loop.__code__, concurrent.futures.thread._WorkItem.run.__code__}
    under_way = threading.local()

    def purpose(caller: FrameType | None) -> Purpose | None:
        if caller is None or caller.f_code in result_codes:
            return Purpose.RESULT
        return Purpose.PUT if caller.f_code is put_code else None

    @functools.wraps(serialize)
    def serialize_for_purpose(self: SerializationContext, value: Any) -> Any:
        outer = getattr(under_way, "purpose", None)
        under_way.purpose = purpose(sys._getframe().f_back)
        if under_way.purpose is Purpose.RESULT:
            count(value)
        try:
            return serialize(self, value)
        finally:
            under_way.purpose = outer

    @functools.wraps(to_pickle5)
    def serialize_to_pickle5(self: SerializationContext, metadata: bytes, value: Any) -> Any:
        purpose = getattr(under_way, "purpose", None)
        if purpose is None:
            return to_pickle5(self, metadata, value)
        writer = ray._private.serialization.Pickle5Writer()
        try:
            self.set_in_band_serialization()
            in_band = dumps(purpose, value, writer.buffer_callback)
        except BaseException:
            self.get_and_clear_contained_object_refs()
            raise
        finally:
            self.set_out_of_band_serialization()
        return ray._private.serialization.Pickle5SerializedObject(
            metadata, in_band, writer, self.get_and_clear_contained_object_refs()
        )

    SerializationContext.serialize = serialize_for_purpose
    SerializationContext._serialize_to_pickle5 = serialize_to_pickle5


def put_through(put: Callable[[Callable[[], Any]], Any]) -> None:
    """Let `put(original)` call the original of every `ray.put`, and return its reference."""
    original = Worker.put_object

    @functools.wraps(original)
    def put_object(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("_is_experimental_channel"):
            return original(*args, **kwargs)
        return put(lambda: original(*args, **kwargs))

    Worker.put_object = put_object


def submit_through(
    submitting: Callable[[], None],
    prepare: Callable[[Any], Any],
    submitting_dynamic: Callable[[], AbstractContextManager[Callable[[Any], None]]],
) -> None:
    """Call `submitting` before each submission of a task, and let `prepare` replace each argument,
    before Ray looks at it.

    submitting_dynamic: entered while a task with `num_returns="dynamic"` is submitted; gives what
    is told of its reference.
    """
    for owner in (ray.remote_function.RemoteFunction, ray.actor.ActorClass):
        owner._remote = _preparing(owner._remote, submitting, prepare, submitting_dynamic)
    call = ray.actor.ActorHandle._actor_method_call

    @functools.wraps(call)
    def _actor_method_call(
        self: Any,
        method_name: str,
        args: Any = None,
        kwargs: Any = None,
        *more: Any,
        **options: Any,
    ) -> Any:
        submitting()
        args, kwargs = _prepared(prepare, args, kwargs)
        if options.get("num_returns") != "dynamic":
            return call(self, method_name, args, kwargs, *more, **options)
        with submitting_dynamic() as submitted:
            ref = call(self, method_name, args, kwargs, *more, **options)
            submitted(ref)
            return ref

    ray.actor.ActorHandle._actor_method_call = _actor_method_call


def _preparing(
    submit: Callable[..., Any],
    submitting: Callable[[], None],
    prepare: Callable[[Any], Any],
    submitting_dynamic: Callable[[], AbstractContextManager[Callable[[Any], None]]],
) -> Callable[..., Any]:
    @functools.wraps(submit)
    def _remote(self: Any, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        submitting()
        args, kwargs = _prepared(prepare, args, kwargs)
        if options.get("num_returns", self._default_options.get("num_returns")) != "dynamic":
            return submit(self, args, kwargs, *more, **options)
        with submitting_dynamic() as submitted:
            ref = submit(self, args, kwargs, *more, **options)
            submitted(ref)
            return ref

    return _remote


def _prepared(prepare: Callable[[Any], Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    if args:
        args = [prepare(value) for value in args]
    if kwargs:
        kwargs = {name: prepare(value) for name, value in kwargs.items()}
    return args, kwargs


def export_through(wrap: Callable[[bytes], Any]) -> None:
    """Export, of each remote function and actor class, what `wrap(pickled)` is pickled to."""

    def exporting(pickle_dumps: Callable[[Any, str], bytes]) -> Callable[[Any, str], bytes]:
        @functools.wraps(pickle_dumps)
        def dumps(obj: Any, error_msg: str) -> bytes:
            exported: bytes = ray.cloudpickle.dumps(wrap(pickle_dumps(obj, error_msg)))
            return exported

        return dumps

    for module in (ray.remote_function, ray._private.function_manager):
        module.pickle_dumps = exporting(module.pickle_dumps)


TaskHook = Callable[[bytes, int], None]


def around_task_bodies(starting: TaskHook, ending: TaskHook) -> None:
    """Call `starting` before and `ending` after the body of each task, with its id and attempt.

    What a generator yields is serialized before its body has ended, a task's own results after
    that, in the same thread. An async generator's items are serialized in a thread of their own,
    which from the actor's first task on is told whose they are (`streaming_task`).
    """
    before, after = Worker.record_task_log_start, Worker.record_task_log_end

    @functools.wraps(before)
    def record_task_log_start(self: Worker, task_id: Any, attempt_number: int) -> None:
        if is_async_actor() and type(self.core_worker.get_event_loop_executor()) is not _Executor:
            self.core_worker.reset_event_loop_executor(_Executor(max_workers=1))
        starting(task_id.binary(), attempt_number)
        before(self, task_id, attempt_number)

    @functools.wraps(after)
    def record_task_log_end(self: Worker, task_id: Any, attempt_number: int) -> None:
        ending(task_id.binary(), attempt_number)
        after(self, task_id, attempt_number)

    Worker.record_task_log_start = record_task_log_start
    Worker.record_task_log_end = record_task_log_end


class _Executor(concurrent.futures.ThreadPoolExecutor):
    """Runs what an async task submits in that task's context."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(contextvars.copy_context().run, function, *args, **kwargs)


def streaming_task() -> bytes | None:
    """Return the async generator's task whose item this thread serializes, None in others."""
    task_id = ray._raylet.async_task_id.get()
    return None if task_id is None else task_id.binary()


def reducers() -> tuple[dict[type, Any], dict[type, Any]]:
    """Return Ray's and the users' reducers by type, and those of `copyreg`, which come after."""
    registered, common = ray.cloudpickle.CloudPickler.dispatch_table.maps
    return registered, common


def job_of_this_process() -> bytes | None:
    """Return the job that this process ends with; None for a detached actor's."""
    core_worker = ray._private.worker.global_worker.core_worker
    if not core_worker.get_current_root_detached_actor_id().is_nil():
        return None
    job_id: bytes = core_worker.get_current_job_id().binary()
    return job_id


def ends_after_calls() -> bool:
    """Whether this worker has loaded a function with `max_calls`, after which it ends.

    When a worker ends, Ray may forget who has the leases that were lent to it.
    """
    infos = ray._private.worker.global_worker.function_actor_manager.execution_infos
    return any(info.max_calls for info in infos.values())


def is_async_actor() -> bool:
    """Whether this process is an actor with async methods."""
    asyncio: bool = ray._private.worker.global_worker.core_worker.current_actor_is_asyncio()
    return asyncio


def when_out_of_scope(ref: ray.ObjectRef, action: Callable[[bytes], None]) -> bool:
    """Call `action(object_id)` when `ref`, which this process owns, is out of scope everywhere.

    Returns False if it is already, or this process does not own it.
    """
    core_worker = ray._private.worker.global_worker.core_worker
    try:
        registered: bool = core_worker.add_object_out_of_scope_callback(ref, action)
    except ValueError:  # another process's, or nobody's any more
        return False
    return registered


def uncounted_ref(reference: bytes) -> ray.ObjectRef | None:
    """Return the reference of this id, good for asking after it; None if Ray was shut down.

    It is not counted. A counted one is an entry in Ray's books, also of an id that Ray is just
    about to own, which then ends the process ("Check failed: owned_by_us").
    """
    if not hasattr(ray._private.worker.global_worker, "core_worker"):
        return None
    ref = ray.ObjectRef.__new__(ray.ObjectRef)
    ref._set_id(reference)
    return ref


def owner_of(reference: bytes) -> bytes | None:
    """Return the worker that owns a reference; None if this one has not heard of that."""
    core_worker = ray._private.worker.global_worker.core_worker
    try:
        serialized = core_worker.get_owner_address(uncounted_ref(reference))
    except ValueError:
        return None
    owner: bytes = Address.FromString(serialized).worker_id
    return owner


def worker_id() -> bytes:
    """Return this process's id as an owner."""
    own: bytes = ray._private.worker.global_worker.core_worker.get_worker_id().binary()
    return own


def items_taken_through(taken: Callable[[ray.ObjectRef], None]) -> None:
    """Call `taken` with each item that is taken out of a stream, which comes in their order."""
    next_sync, next_async = ObjectRefGenerator._next_sync, ObjectRefGenerator._next_async
    consume = ObjectRefGenerator._consume_next_ref_n

    def note(self: Any, ref: ray.ObjectRef) -> None:
        if not ref.is_nil() and ref != self._generator_ref:
            taken(ref)

    @functools.wraps(next_sync)
    def _next_sync(self: Any, timeout_s: float | None = None) -> ray.ObjectRef:
        ref = next_sync(self, timeout_s)
        note(self, ref)
        return ref

    @functools.wraps(next_async)
    async def _next_async(self: Any, timeout_s: float | None = None) -> ray.ObjectRef:
        ref = await next_async(self, timeout_s)
        note(self, ref)
        return ref

    @functools.wraps(consume)
    def _consume_next_ref_n(self: Any, num_refs: int) -> None:
        refs = self._get_next_ref_n(num_refs)
        consume(self, num_refs)
        note(self, refs[-1])

    ObjectRefGenerator._next_sync, ObjectRefGenerator._next_async = _next_sync, _next_async
    ObjectRefGenerator._consume_next_ref_n = _consume_next_ref_n


def after_init(action: Callable[[], None]) -> None:
    """Call `action` at the end of every `ray.init` of this process."""
    hooks: list[Callable[[], None]] = ray._private.worker._post_init_hooks
    if action not in hooks:
        hooks.append(action)


def function_and_options(remote: ray.remote_function.RemoteFunction) -> tuple[Any, dict[str, Any]]:
    """Return what `@ray.remote` was given: the function, and the options that are set."""
    options = remote._default_options or {}
    return remote._function, {k: v for k, v in options.items() if v is not None}


def is_client() -> bool:
    """Whether this driver is connected by `ray://`."""
    connected: bool = ray.util.client.ray.is_connected()
    return connected


def logs_directory() -> Path:
    """Return where this session's logs are, on this node."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


def jobs() -> Iterator[tuple[bytes, bool, str]]:
    """Yield the cluster's jobs: id, whether it is over, its namespace."""
    for job_id, job in ray._private.worker.global_worker.gcs_client.get_all_job_info().items():
        yield job_id.binary(), job.is_dead, job.config.ray_namespace
