"""Ray tasks whose functions run in a sandbox: `@zerrow_ray.sandboxed`.

The Ray worker is the broker. It gets the arguments and stores the result as for any task. The
function itself runs in a sandbox of `zerrow_store.sandbox`, which cannot reach Ray or the store.
The tenant is the job, unless another one is named: a sandbox is reused within a job, but never by
another job.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import ray
from ray.remote_function import RemoteFunction

from zerrow_ray import ray_compat
from zerrow_ray.reading import node_client
from zerrow_store import sandbox
from zerrow_store.forks import Lock
from zerrow_store.sandbox import SandboxOptions, SandboxStats


def sandboxed(function: Any = None, /, *, tenant: str | None = None, **settings: Any) -> Any:
    """Run a task's function in a sandbox. The decorator goes above or below `@ray.remote`; settings
    are those of `zerrow_store.sandbox.SandboxOptions`.

        @zerrow_ray.sandboxed(memory="2GiB", timeout=600)
        @ray.remote
        def node(table): ...

    The task fails with SandboxError if the function raises an exception, with SandboxMemoryError,
    SandboxTimeoutError, or with SandboxUnavailableError if its machine cannot confine it as asked.
    Ray wraps these errors like those of any task. Raises TypeError for anything but a plain
    function.
    """
    options = SandboxOptions(**settings)
    if function is None:
        return functools.partial(_sandboxed, tenant=tenant, options=options)
    return _sandboxed(function, tenant=tenant, options=options)


def _sandboxed(function: Any, *, tenant: str | None, options: SandboxOptions) -> Any:
    if not isinstance(function, RemoteFunction):
        return confined(function, tenant, options)
    body, given = ray_compat.function_and_options(function)
    body = confined(body, tenant, options)
    return ray.remote(**given)(body) if given else ray.remote(body)


def confined(
    function: Callable[..., Any], tenant: str | None, options: SandboxOptions
) -> Callable[..., Any]:
    """Return a function that does the same in a sandbox. Raises TypeError if it cannot."""
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise TypeError("a sandbox runs plain functions, no generators or coroutines")
    if not inspect.isfunction(function):
        raise TypeError(f"a sandbox runs functions, not {type(function).__name__}")

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        whose = tenant or f"ray-job-{ray.get_runtime_context().get_job_id()}"
        try:
            return sandbox.run(
                function, *arguments, tenant=whose, options=options, keywords=keywords
            )
        finally:
            _report()

    return run


_reporting = Lock()
_reported: dict[str, int] = SandboxStats().as_dict()


def _report() -> None:
    """Report to the node's store what sandboxes have done since the last report."""
    with _reporting:
        counts = sandbox.stats().as_dict()
        increments = {name: count - _reported[name] for name, count in counts.items()}
        _reported.update(counts)
    if (client := node_client()) is not None:
        client.count_sandbox(increments)
