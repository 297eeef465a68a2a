"""Ray's private names: the hooks of the plugin, and what it reads of Ray's internal state.

Private names of Ray that most workers do not need are in `data/ray_data_compat.py`,
`dag/ray_dag_compat.py` and `cli/ray_cli_compat.py`.

`missing` compares the names that the plugin expects with those of the installed Ray. A Ray that
lacks any of them is used without the plugin. Each hook is installed once in a process, and leaves
alone what its function declines.

The file is long because everything that depends on Ray's internals is to be found in one place.
"""

import concurrent.futures
import concurrent.futures.thread
import contextvars
import functools
import inspect
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from enum import Enum, auto
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import ray
import ray._private.function_manager
import ray._private.serialization
import ray.actor
import ray.cloudpickle
import ray.remote_function
import ray.util.client
from ray import ObjectRefGenerator
from ray._private.ray_constants import OBJECT_METADATA_TYPE_PYTHON
from ray._private.serialization import (
    SerializationContext,
    split_buffer,
    unpack_pickle5_buffers,
)
from ray._private.worker import Worker
from ray.core.generated.common_pb2 import Address
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import GetTimeoutError
from ray.experimental import internal_kv

from zerrow_ray.config import INLINE_LIMIT

_EXPECTED: dict[str, list[str] | None] = {
    "ray._private.worker:Worker.put_object": ["self", "value"],
    "ray._private.worker:Worker.deserialize_objects": ["self", "serialized_objects", "object_refs"],
    "ray._private.worker:wait": ["ray_waitables", "num_returns", "timeout", "fetch_local"],
    "ray._private.worker:Worker.main_loop": ["self"],
    "ray._private.worker:Worker.set_is_connected": ["self", "is_connected"],
    "ray._private.worker:Worker.connected": None,
    "ray._private.worker:Worker.record_task_log_start": ["self", "task_id", "attempt_number"],
    "ray._private.worker:Worker.record_task_log_end": ["self", "task_id", "attempt_number"],
    "ray._private.worker:_post_init_hooks": None,
    "ray._private.worker:global_worker.actors": None,
    "ray._private.worker:Worker.actor_id": None,
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
    "ray._private.serialization:Pickle5SerializedObject.total_bytes": None,
    "ray._private.ray_constants:OBJECT_METADATA_TYPE_PYTHON": None,
    "ray._private.serialization:split_buffer": None,
    "ray._private.serialization:unpack_pickle5_buffers": None,
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
    "ray._raylet:CoreWorker.get_owner_address": None,
    "ray._raylet:CoreWorker.get_worker_id": None,
    "ray._raylet:CoreWorker.get_objects": None,
    "ray._raylet:CoreWorker.wait": None,
    "ray._raylet:CoreWorker.get_event_loop_executor": None,
    "ray._raylet:CoreWorker.reset_event_loop_executor": None,
    "ray._raylet:async_task_id": None,
    "ray._raylet:GcsClient": None,
    "ray._raylet:InnerGcsClient.get_all_node_info": None,
    "ray._raylet:InnerGcsClient.internal_kv_get": None,
    "ray._raylet:InnerGcsClient.internal_kv_put": None,
    "ray._raylet:InnerGcsClient.internal_kv_multi_get": None,
    "ray._raylet:InnerGcsClient.get_all_job_info": None,
    "ray.experimental.internal_kv:_internal_kv_get": ["key"],
    "ray.experimental.internal_kv:_internal_kv_put": ["key", "value", "overwrite"],
    "ray.experimental.internal_kv:_internal_kv_del": ["key"],
    "ray.experimental.internal_kv:_internal_kv_list": ["prefix"],
}
"""Private names by module. Of a function, the first parameters that it must take."""

_METRICS_SECONDS = 10.0

kv_get = internal_kv._internal_kv_get
kv_put = internal_kv._internal_kv_put
kv_del = internal_kv._internal_kv_del
kv_list = internal_kv._internal_kv_list

ARROW_REDUCERS = "ray._private.arrow_serialization"
"""The module of Ray's own reducers for Arrow data."""


def missing(expected: Mapping[str, list[str] | None] = _EXPECTED) -> list[str]:
    """Return the expected names that this Ray lacks, or whose parameters differ."""
    return [name for name, parameters in expected.items() if not _is_there(name, parameters)]


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
    """The purpose for which Ray serializes an object."""

    PUT = auto()
    RESULT = auto()


Dumps = Callable[[Purpose, list[Any], Callable[[Any], Any]], tuple[bytes, int]]


def serialize_through(
    dumps: Dumps, is_plain: Callable[[Any], bool], count: Callable[[Any], None]
) -> None:
    """Let `dumps(purpose, values, take_buffer)` pickle puts and results.

    dumps: returns the pickled bytes, and how many bytes larger Ray is to make the object. It is
    called while Ray collects the references that the value contains, and passes each out-of-band
    buffer to `take_buffer`. values: the object, as Ray's own packing hands it over. is_plain:
    whether Ray may pickle a value itself. count: called before each result, and before each item of
    a stream.

    Everything else takes Ray's own path: closures, plain pickling, channels of compiled graphs,
    arguments.

    It is long because the methods that it replaces share what is under way.
    """
    serialize = SerializationContext.serialize
    to_pickle5 = SerializationContext._serialize_to_pickle5
    put_code = Worker.put_object.__code__
    # For results, Ray's compiled code calls `serialize`. The Python frame below is then the loop of
    # a worker's main thread, the thread that reports an async generator's items, or none.
    # That thread is one of an executor, which calls from another class since Python 3.14.
    threads = concurrent.futures.thread
    of_executor: Any = getattr(threads, "WorkerContext", threads._WorkItem)
    result_codes = {Worker.main_loop.__code__, of_executor.run.__code__}
    under_way = threading.local()

    class SerializedObject(ray._private.serialization.Pickle5SerializedObject):  # type: ignore[misc]
        """What Ray writes to plasma. unwritten: further bytes of the object, which take no memory
        because nobody writes to them.
        """

        unwritten = 0

        @property
        def total_bytes(self) -> int:
            """The size of the object in plasma."""
            written: int = super().total_bytes
            return written + self.unwritten

    def purpose(caller: FrameType | None) -> Purpose | None:
        if caller is None or caller.f_code in result_codes:
            return Purpose.RESULT
        return Purpose.PUT if caller.f_code is put_code else None

    @functools.wraps(serialize)
    def serialize_for_purpose(self: SerializationContext, value: Any) -> Any:
        outer = getattr(under_way, "purpose", None)
        whose = purpose(sys._getframe().f_back)
        if whose is Purpose.RESULT:
            count(value)
        under_way.purpose = None if is_plain(value) else whose
        try:
            return serialize(self, value)
        finally:
            under_way.purpose = outer

    @functools.wraps(to_pickle5)
    def serialize_to_pickle5(self: SerializationContext, metadata: bytes, values: list[Any]) -> Any:
        purpose = getattr(under_way, "purpose", None)
        if purpose is None or all(map(is_plain, values)):
            return to_pickle5(self, metadata, values)
        writer = ray._private.serialization.Pickle5Writer()
        try:
            self.set_in_band_serialization()
            in_band, unwritten = dumps(purpose, values, writer.buffer_callback)
        except BaseException:
            self.get_and_clear_contained_object_refs()
            raise
        finally:
            self.set_out_of_band_serialization()
        references = self.get_and_clear_contained_object_refs()
        serialized = SerializedObject(metadata, in_band, writer, references)
        serialized.unwritten = unwritten
        return serialized

    SerializationContext.serialize = serialize_for_purpose
    SerializationContext._serialize_to_pickle5 = serialize_to_pickle5


def put_through(put: Callable[[Callable[[], Any]], Any], is_plain: Callable[[Any], bool]) -> None:
    """Let `put(original)` call the original `ray.put`, and return its reference.

    is_plain: whether Ray may pickle a value itself; `put` is not called for such a value.
    """
    original = Worker.put_object

    @functools.wraps(original)
    def put_object(self: Worker, value: Any, *args: Any, **kwargs: Any) -> Any:
        if is_plain(value) or kwargs.get("_is_experimental_channel"):
            return original(self, value, *args, **kwargs)
        return put(functools.partial(original, self, value, *args, **kwargs))

    Worker.put_object = put_object


SubmittingDynamic = Callable[[], AbstractContextManager[Callable[[Any], None]]]


def submit_through(
    submitting: Callable[[], None],
    prepare: Callable[[Any], Any],
    submitting_dynamic: SubmittingDynamic,
) -> None:
    """Call `submitting` before each submission of a task, and let `prepare` replace each argument
    before Ray looks at it.

    submitting_dynamic: entered around the submission of a task with `num_returns="dynamic"`. The
    function that it yields is called with the task's reference.
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
        submit = functools.partial(call, self, method_name, args, kwargs, *more, **options)
        return _submitted(submit, submitting_dynamic)

    ray.actor.ActorHandle._actor_method_call = _actor_method_call


def _preparing(
    submit: Callable[..., Any],
    submitting: Callable[[], None],
    prepare: Callable[[Any], Any],
    submitting_dynamic: SubmittingDynamic,
) -> Callable[..., Any]:
    @functools.wraps(submit)
    def _remote(self: Any, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        submitting()
        args, kwargs = _prepared(prepare, args, kwargs)
        num_returns = options.get("num_returns", self._default_options.get("num_returns"))
        if num_returns != "dynamic":
            return submit(self, args, kwargs, *more, **options)
        call = functools.partial(submit, self, args, kwargs, *more, **options)
        return _submitted(call, submitting_dynamic)

    return _remote


def _submitted(submit: Callable[[], Any], submitting_dynamic: SubmittingDynamic) -> Any:
    with submitting_dynamic() as submitted:
        ref = submit()
        submitted(ref)
        return ref


def _prepared(prepare: Callable[[Any], Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    if args:
        args = [prepare(value) for value in args]
    if kwargs:
        kwargs = {name: prepare(value) for name, value in kwargs.items()}
    return args, kwargs


def export_through(wrap: Callable[[bytes], Any]) -> None:
    """Export the pickled `wrap(pickled)` for each pickled remote function and actor class."""

    def exporting(pickle_dumps: Callable[[Any, str], bytes]) -> Callable[[Any, str], bytes]:
        @functools.wraps(pickle_dumps)
        def dumps(obj: Any, error_msg: str) -> bytes:
            exported: bytes = ray.cloudpickle.dumps(wrap(pickle_dumps(obj, error_msg)))
            return exported

        return dumps

    for module in (ray.remote_function, ray._private.function_manager):
        module.pickle_dumps = exporting(module.pickle_dumps)


class TaskHooks(Protocol):
    """Hooks called before and after the body of each task, with the task's id and attempt."""

    def starting(self, task_id: bytes, attempt: int) -> None:
        """The body is about to run."""

    def ending(self, task_id: bytes, attempt: int) -> None:
        """The body has run, or failed."""


def around_task_bodies(hooks: TaskHooks) -> None:
    """Call the hooks around the body of each task that starts, or ends, from now on.

    The items of a generator are serialized before its body has ended. The results of a task are
    serialized after that, in the same thread. The items of async generators are serialized in a
    thread of their own; from the actor's first task on, that thread knows the task of each item
    (`streaming_task`).
    """
    before, after = Worker.record_task_log_start, Worker.record_task_log_end

    @functools.wraps(before)
    def record_task_log_start(self: Worker, task_id: Any, attempt_number: int) -> None:
        if is_async_actor() and type(self.core_worker.get_event_loop_executor()) is not _Executor:
            self.core_worker.reset_event_loop_executor(_Executor(max_workers=1))
        hooks.starting(task_id.binary(), attempt_number)
        before(self, task_id, attempt_number)

    @functools.wraps(after)
    def record_task_log_end(self: Worker, task_id: Any, attempt_number: int) -> None:
        hooks.ending(task_id.binary(), attempt_number)
        after(self, task_id, attempt_number)

    Worker.record_task_log_start = record_task_log_start
    Worker.record_task_log_end = record_task_log_end


class _Executor(concurrent.futures.ThreadPoolExecutor):
    """Runs each function in the context of the async task that has submitted it."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(contextvars.copy_context().run, function, *args, **kwargs)


def streaming_task() -> bytes | None:
    """Return the task of the async generator whose item this thread serializes; else None."""
    task_id = ray._raylet.async_task_id.get()
    return None if task_id is None else task_id.binary()


def reducers() -> tuple[dict[type, Any], dict[type, Any]]:
    """Return Ray's and the users' reducers by type, and those of `copyreg`, which they override."""
    registered, common = ray.cloudpickle.CloudPickler.dispatch_table.maps
    return registered, common


def is_async_actor() -> bool:
    """Whether this process is an actor with async methods."""
    asyncio: bool = ray._private.worker.global_worker.core_worker.current_actor_is_asyncio()
    return asyncio


def actor() -> Any:
    """Return this process's actor; None before its constructor has returned."""
    worker = ray._private.worker.global_worker
    return worker.actors.get(worker.actor_id)


def when_out_of_scope(ref: ray.ObjectRef, action: Callable[[bytes], None]) -> bool:
    """Call `action(object_id)` when `ref`, which this process owns, is out of scope everywhere.

    Returns False if it already is, or if this process does not own it.
    """
    with connection() as connected:
        if not connected:
            return False
        core_worker = ray._private.worker.global_worker.core_worker
        try:
            registered: bool = core_worker.add_object_out_of_scope_callback(ref, action)
        except ValueError:  # another process owns it, or nobody does any more
            return False
        return registered


_connection = threading.RLock()


@contextmanager
def connection() -> Iterator[bool]:
    """Keep Ray from being shut down inside of the block; yield whether Ray is still connected.

    If a thread calls Ray while another one shuts it down, or drops a counted reference then, the
    process ends ("The core worker has already been shutdown").
    """
    with _connection:
        yield ray._private.worker.global_worker.connected


def let_shutdown_wait() -> None:
    """Let Ray be shut down only while no thread is in `connection`."""
    set_is_connected = Worker.set_is_connected

    @functools.wraps(set_is_connected)
    def set_when_nobody_asks(self: Worker, is_connected: bool) -> None:
        with _connection:
            set_is_connected(self, is_connected)

    Worker.set_is_connected = set_when_nobody_asks


def uncounted_ref(reference: bytes) -> ray.ObjectRef:
    """Return an uncounted reference with this id, to query Ray with.

    A counted one would be entered into Ray's reference table. If Ray is only about to own that id,
    the entry ends the process ("Check failed: owned_by_us").
    """
    ref = ray.ObjectRef.__new__(ray.ObjectRef)
    ref._set_id(reference)
    return ref


def owner_of(reference: bytes) -> tuple[bytes, bytes] | None:
    """Return the worker that owns a reference, and its node; None if this process does not know
    them.
    """
    core_worker = ray._private.worker.global_worker.core_worker
    try:
        serialized = core_worker.get_owner_address(uncounted_ref(reference))
    except ValueError:
        return None
    owner = Address.FromString(serialized)
    return owner.worker_id, owner.node_id


def worker_id() -> bytes:
    """Return this process's id as an owner."""
    own: bytes = ray._private.worker.global_worker.core_worker.get_worker_id().binary()
    return own


def items_taken_through(taken: Callable[[ray.ObjectRef], None]) -> None:
    """Call `taken` with each item that is taken out of a stream, in the order of the items."""
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


Waits = Callable[[list[Any], int, float | None], tuple[list[Any], list[Any]]]


def wait_through(wait: Callable[[Waits, list[Any], int, float | None], Any]) -> None:
    """Let `wait(original, waited, num_returns, timeout)` do what `ray.wait` does with
    `fetch_local`. original: Ray's own wait for how many of which references, and how long.
    """
    original = ray._private.worker.wait

    def waits(waited: list[Any], num_returns: int, timeout: float | None) -> Any:
        return original(waited, num_returns=num_returns, timeout=timeout, fetch_local=True)

    @functools.wraps(original)
    def wait_fetching(
        ray_waitables: list[Any],
        *,
        num_returns: int = 1,
        timeout: float | None = None,
        fetch_local: bool = True,
    ) -> Any:
        if not fetch_local or is_client():
            return original(
                ray_waitables, num_returns=num_returns, timeout=timeout, fetch_local=fetch_local
            )
        return wait(waits, ray_waitables, num_returns, timeout)

    ray.wait = ray._private.worker.wait = wait_fetching


def read_several_through(several: Callable[[list[Any]], None]) -> None:
    """Call `several` with messages that are about to be read one after the other."""
    original = Worker.deserialize_objects

    @functools.wraps(original)
    def deserialize_objects(
        self: Worker, serialized_objects: list[Any], object_refs: Any, **more: Any
    ) -> Any:
        if len(serialized_objects) > 1:
            several(serialized_objects)
        return original(self, serialized_objects, object_refs, **more)

    Worker.deserialize_objects = deserialize_objects


def waited_for(waitable: Any) -> ray.ObjectRef:
    """Return the reference itself, or the one of the next item of a stream that has one."""
    if isinstance(waitable, ray.ObjectRef):
        return waitable
    return waitable._get_next_ref_n(1)[0]


def arrived(refs: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """Return those of references, which may be uncounted, whose messages are on this node. Have
    Ray bring the others, as far as there are any.
    """
    if not refs:
        return []
    core_worker = ray._private.worker.global_worker.core_worker
    try:
        ready: list[ray.ObjectRef] = core_worker.wait(refs, len(refs), 0, True)[0]
    except ValueError:  # one of them is out of scope by now
        return []
    return ready


def messages_of(refs: list[ray.ObjectRef]) -> list[tuple[ray.ObjectRef, Any]]:
    """Return the messages of references, as Ray reads them; none that is not on this node."""
    found = _messages(refs)
    # One that is an error ends Ray's reading, and leaves others out.
    again = [
        _messages([ref])[0] if each is None else each for ref, each in zip(refs, found, strict=True)
    ]
    return [(ref, each) for ref, each in zip(refs, again, strict=True) if each is not None]


def _messages(refs: list[ray.ObjectRef]) -> list[Any]:
    """Return the messages of references; None for those that Ray does not read now."""
    core_worker = ray._private.worker.global_worker.core_worker
    try:
        read = core_worker.get_objects(refs, 0) if refs else []
    except (GetTimeoutError, ValueError):  # one is not here, or nobody's any more
        return [None] * len(refs)
    return [None if each.metadata is None else each for each in read]


def pickled(message: Any) -> memoryview | None:
    """Return the pickled stream of a message; None if it has none, or is none of plasma's."""
    if not message.metadata.startswith(OBJECT_METADATA_TYPE_PYTHON):
        return None
    if len(message.data) <= INLINE_LIMIT:
        return None
    _, packed = split_buffer(message.data)
    stream: memoryview = unpack_pickle5_buffers(packed)[0]
    return stream


def after_init(action: Callable[[], None]) -> None:
    """Call `action` at the end of every `ray.init` of this process."""
    hooks: list[Callable[[], None]] = ray._private.worker._post_init_hooks
    if action not in hooks:
        hooks.append(action)


def function_and_options(remote: ray.remote_function.RemoteFunction) -> tuple[Any, dict[str, Any]]:
    """Return the function that `@ray.remote` was applied to, and the options that are set."""
    options = remote._default_options or {}
    return remote._function, {k: v for k, v in options.items() if v is not None}


def raylet_pid() -> int:
    """Return the pid of this node's raylet."""
    # Imported by the process that starts the store: workers load nothing of it to be activated.
    from zerrow_store.protocol.sockets import peer

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(ray._private.worker._global_node.raylet_socket_name)
        return peer(connection)[0]


def end_with_raylet() -> None:
    """End this process if it is a worker whose raylet has ended, as it would by itself a moment
    later. What it could not do is not its task's error: Ray runs the task again elsewhere.
    """
    try:
        raylet_pid()
    except OSError:
        if ray.get_runtime_context().get_task_id() is not None:
            os._exit(1)


class Gcs:
    """A connection to a cluster's control store, for a process outside of Ray.

    Its methods raise RayError, or other errors of Ray, while the control store is away.
    """

    def __init__(self, address: str) -> None:
        self._client = ray._raylet.GcsClient(address=address)

    def nodes(self) -> list[bytes]:
        """Return the nodes that are alive."""
        found = self._client.get_all_node_info().items()
        return [node.binary() for node, info in found if info.state == GcsNodeInfo.ALIVE]

    def metrics_address(self, node_id: bytes) -> tuple[str, int] | None:
        """Return host and port where Ray's agent of a node accepts metrics; None if it does not."""
        for node, info in self._client.get_all_node_info().items():
            if node.binary() == node_id and info.metrics_agent_port > 0:
                return info.node_manager_address, info.metrics_agent_port
        return None

    def get(self, key: bytes) -> bytes | None:
        """Return a value of the cluster's key-value store."""
        value: bytes | None = self._client.internal_kv_get(key)
        return value

    def put(self, key: bytes, value: bytes, *, overwrite: bool) -> None:
        """Set a value."""
        self._client.internal_kv_put(key, value, overwrite)

    def get_all(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """Return the values of those of these keys that have one."""
        return dict(self._client.internal_kv_multi_get(keys))


def metrics_interval() -> float:
    """Return the interval in seconds at which Ray's processes report metrics. Ray's agent forgets a
    gauge after two of them.
    """
    milliseconds: int = ray._config.metrics_report_interval_ms()
    return max(milliseconds / 1000, 1.0)


def metrics_exporter(address: str) -> Callable[[Any], None]:
    """Return a function that sends an ExportMetricsServiceRequest of OpenTelemetry to Ray's agent
    of a node, with the token and certificates of Ray's own processes. It raises RpcError.

    Raises ImportError if gRPC or OpenTelemetry is missing. Ray's agent has no endpoint then.
    """
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
    from ray._private.grpc_utils import init_grpc_channel

    stub = MetricsServiceStub(init_grpc_channel(address))
    return lambda request: stub.Export(request, timeout=_METRICS_SECONDS)


def session_name() -> str:
    """Return the name of this Ray session, which distinguishes its metrics from another's."""
    name: str = ray._private.worker._global_node.session_name
    return name


def is_client() -> bool:
    """Whether this driver is connected by `ray://`."""
    connected: bool = ray.util.client.ray.is_connected()
    return connected


def logs_directory() -> Path:
    """Return the directory of this session's logs on this node."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


def jobs() -> Iterator[tuple[bytes, bool, str]]:
    """Yield the cluster's jobs: the id, whether the job is over, and its namespace."""
    for job_id, job in ray._private.worker.global_worker.gcs_client.get_all_job_info().items():
        yield job_id.binary(), job.is_dead, job.config.ray_namespace
