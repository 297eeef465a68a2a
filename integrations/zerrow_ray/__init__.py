"""Arrow tables by reference in Ray.

    import ray, zerrow_ray
    zerrow_ray.init()            # ray.init's arguments

and `ray.put`, `ray.get`, task arguments and results carry tables without copying them. Or, with
no change of code, `RAY_RUNTIME_ENV_HOOK=zerrow_ray.runtime_env_hook`.
"""

import importlib
from typing import Any

from zerrow_ray.lifecycle import init, register, runtime_env_hook, worker_setup
from zerrow_ray.stats import stats

__all__ = ["dag", "init", "register", "runtime_env_hook", "stats", "worker_setup"]


def __getattr__(name: str) -> Any:
    # Every worker imports this package, few run DAGs.
    if name == "dag":
        return importlib.import_module("zerrow_ray.dag")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
