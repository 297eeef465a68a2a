"""Switching the plugin on: in the driver, and through Ray's setup hook in every worker.

Ray accepts one `worker_process_setup_hook` per job, so the plugin's hook takes its place and runs
the user's own hook first.
"""

import base64
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.cloudpickle
from ray._common.utils import load_class

from zerrow_ray import serializers
from zerrow_ray.session import current_session, start_nodes
from zerrow_ray.settings import StoreSettings, announce, store_settings
from zerrow_store import memory

logger = logging.getLogger("zerrow_ray")

SETUP_HOOK = "zerrow_ray.worker_setup"
_CHAINED_NAME = "ZERROW_CHAINED_SETUP_HOOK"
_CHAINED_CODE = "ZERROW_CHAINED_SETUP_HOOK_PICKLE"

_under_way = StoreSettings()
"""Of an `init` that has called `ray.init`, whose hooks register before it returns."""


def init(
    *, memory: int | str | None = None, eviction: str | None = None, **ray_init_arguments: Any
) -> Any:
    """Start or join Ray with the plugin on. Takes what `ray.init` does, and returns its context,
    which ends Ray at the end of a `with`.

    memory: what each node's store may hold, bytes or a text such as "8GiB"; by default
        ZERROW_MEMORY, or a share of what the machine or its cgroup has.
    eviction: what goes when it is full: "adaptive", "swap", "rollback", "lru", "none", or
        "module:Class" for a policy of your own (`zerrow_store.node.policy`).
    Both hold for the stores of the whole cluster, from the first driver that says them.
    Raises ValueError for a bad size or policy, before Ray is started.
    """
    settings = store_settings(memory, eviction)
    runtime_env = ray_init_arguments.pop("runtime_env", None)
    global _under_way
    _under_way = settings
    try:
        context = ray.init(runtime_env=runtime_env_hook(runtime_env), **ray_init_arguments)
        _register(settings)
    finally:
        _under_way = StoreSettings()
    return context


def register(*, memory: int | str | None = None, eviction: str | None = None) -> None:
    """Switch the plugin on in a driver that has called `ray.init` already.

    Workers of this job that were started without the setup hook read tables by reference all the
    same, and hand on their own by reference from the first one they read. memory and eviction: as
    for `init`. Raises RuntimeError if Ray is not initialized, ValueError for a bad size or policy.
    """
    settings = store_settings(memory, eviction)
    if not ray.is_initialized():
        raise RuntimeError("zerrow_ray.register() needs a running Ray: call ray.init() first")
    _register(settings)


def _register(settings: StoreSettings) -> None:
    announce(settings)
    memory.start()
    serializers.register()
    start_nodes()
    current_session()


def runtime_env_hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `runtime_env` with the plugin's setup hook in it; a hook of the user's is chained.

    Made for `RAY_RUNTIME_ENV_HOOK`, which Ray calls in the driver during `ray.init`: the driver
    itself is registered as soon as Ray is up.
    """
    hooks: list[Callable[[], None]] = ray._private.worker._post_init_hooks
    if _register_after_init not in hooks:
        hooks.append(_register_after_init)
    env = dict(runtime_env or {})
    hook = env.get("worker_process_setup_hook")
    if hook == SETUP_HOOK:
        return env
    if hook is not None:
        variables = dict(env.get("env_vars") or {})
        if isinstance(hook, str):
            variables[_CHAINED_NAME] = hook
        else:
            variables[_CHAINED_CODE] = base64.b64encode(ray.cloudpickle.dumps(hook)).decode()
        env["env_vars"] = variables
    env["worker_process_setup_hook"] = SETUP_HOOK
    return env


def worker_setup() -> None:
    """Switch the plugin on in a worker: Ray's `worker_process_setup_hook` of the job.

    Errors of the user's chained hook are the user's; the plugin's own are logged, and leave the
    worker on Ray's own path.
    """
    _run_chained_hook()
    try:
        memory.start()
        serializers.register()
    except Exception:
        logger.exception("zerrow_ray is off in this worker: tables take Ray's own path")


def _register_after_init() -> None:
    # Ray calls every post-init hook at every ray.init of the process, also one without the plugin.
    job = ray._private.worker.global_worker.core_worker.get_job_config()
    if SETUP_HOOK not in job.runtime_env_info.serialized_runtime_env:
        return
    try:
        _register(_under_way)
    except Exception:
        logger.exception("zerrow_ray is off in this driver: tables take Ray's own path")


def _run_chained_hook() -> None:
    if name := os.environ.get(_CHAINED_NAME):
        load_class(name)()
    elif code := os.environ.get(_CHAINED_CODE):
        ray.cloudpickle.loads(base64.b64decode(code))()
