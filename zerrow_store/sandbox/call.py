"""The call of a function in a sandbox: `zerrow_store.sandbox.run`."""

import contextlib
import io
import sys
import sysconfig
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import pyarrow as pa

from zerrow_store import memory
from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.forks import Lock
from zerrow_store.sandbox import inputs, ipc, pool, stats
from zerrow_store.sandbox.call_process import Request
from zerrow_store.sandbox.inputs import Input
from zerrow_store.sandbox.options import SandboxOptions

_by_value = Lock()


def run(
    function: Callable[..., Any],
    /,
    *arguments: Any,
    tenant: str = "",
    options: SandboxOptions | None = None,
    keywords: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Call `function(*arguments, **keywords)` in a sandbox.

    Arrow data goes in and comes out by reference.

    Parameters
    ----------
    function
        Called in the sandbox. Its module goes along by value if the sandbox cannot import it.
    arguments
        Positional arguments.
    tenant
        A sandbox serves one tenant. A call may see what earlier calls of its own tenant left
        behind, but nothing of another tenant's.
    options
        The sandbox's limits, and what it sees.
    keywords
        Keyword arguments.
    settings
        In place of `options`: those of `SandboxOptions`, sizes also as text ("2GiB").

    Returns
    -------
    Any
        The function's result.

    Raises
    ------
    SandboxError
        The function raised an exception; the error has its text and traceback, as text.
    SandboxMemoryError
        The call needed more than its memory.
    SandboxTimeoutError
        The call did not end in time.
    SandboxUnavailableError
        This machine cannot confine the call as asked.
    """
    if options is None:
        options = SandboxOptions(**settings)
    elif settings:
        raise TypeError("give either options or settings")
    memory.start()
    stats.count(calls=1)
    request = _pack(function, arguments, keywords or {})
    sandboxes = pool.current()
    sandbox = sandboxes.take(tenant, options)
    try:
        return sandbox.run(request, options)
    finally:
        sandboxes.give_back(tenant, options, sandbox)


def _pack(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Request:
    file = io.BytesIO()
    pickler = _Pickler(file)
    with _importable_or_by_value(function):
        pickler.dump((function, arguments, keywords))
    segments = {each.segment.id: each.segment for each in pickler.inputs}
    return Request(
        pickle=file.getvalue(),
        messages=[each.message for each in pickler.inputs],
        segments=list(segments.values()),
        extensions=list(pickler.extensions.values()),
    )


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles a call. Large Arrow data becomes an input, which a persistent id refers to."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.inputs: list[Input] = []
        self.extensions: dict[str, bytes] = {}
        self._known: dict[int, tuple[int, Any]] = {}

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, ARROW_DATA):
            return None
        self._find_extensions(value)
        if not inputs.needs_segment(value):
            return None
        if id(value) not in self._known:
            self.inputs.append(inputs.prepare(value))
            self._known[id(value)] = (len(self.inputs) - 1, value)
        return self._known[id(value)][0]

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, ARROW_DATA):
            return ipc.restore, ipc.compact(value)
        return super().reducer_override(value)

    def _find_extensions(self, value: Any) -> None:
        fields = value.schema if hasattr(value, "schema") else [value]
        for field in fields:
            for kind in _nested(field.type):
                known = not isinstance(kind, pa.ExtensionType)
                if known or kind.extension_name in self.extensions:
                    continue
                with _importable_or_by_value(type(kind)):
                    self.extensions[kind.extension_name] = cloudpickle.dumps(kind)


def _nested(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    if isinstance(kind, pa.BaseExtensionType):
        yield from _nested(kind.storage_type)
        return
    for index in range(kind.num_fields):
        yield from _nested(kind.field(index).type)
    if pa.types.is_dictionary(kind):
        yield from _nested(kind.value_type)


@contextlib.contextmanager
def _importable_or_by_value(function: Callable[..., Any]) -> Iterator[None]:
    """Pickle the function's module by value, if a sandbox could not import it."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or _is_installed(module):
        yield
        return
    with _by_value:
        registered = module.__name__ in cloudpickle.list_registry_pickle_by_value()
        if not registered:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            if not registered:
                cloudpickle.unregister_pickle_by_value(module)


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "zerrow_store":
        return True
    paths = sysconfig.get_paths()
    installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(file.startswith(f"{directory}/") for directory in installed)
