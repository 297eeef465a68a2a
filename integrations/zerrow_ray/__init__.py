"""Arrow tables by reference in Ray.

    import ray, zerrow_ray
    zerrow_ray.init()            # ray.init's arguments

From then on `ray.put`, `ray.get`, task arguments and results carry tables without copying them.
`RAY_RUNTIME_ENV_HOOK=zerrow_ray.runtime_env_hook` does the same without a change of code.

All names here are loaded at first use: every worker imports this package, and most need little of
it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerrow_ray import dag, data
    from zerrow_ray.lifecycle import init, register, runtime_env_hook, worker_setup
    from zerrow_ray.reading import read_parquet, scan
    from zerrow_ray.sandbox import sandboxed
    from zerrow_ray.store_stats import ClusterStats, stats
    from zerrow_ray.tensors import to_torch

__all__ = [
    "ClusterStats",
    "dag",
    "data",
    "init",
    "read_parquet",
    "register",
    "runtime_env_hook",
    "sandboxed",
    "scan",
    "stats",
    "to_torch",
    "worker_setup",
]

_MODULES = {
    "ClusterStats": "store_stats",
    "init": "lifecycle",
    "read_parquet": "reading",
    "register": "lifecycle",
    "runtime_env_hook": "lifecycle",
    "sandboxed": "sandbox",
    "scan": "reading",
    "stats": "store_stats",
    "to_torch": "tensors",
    "worker_setup": "lifecycle",
}


def __getattr__(name: str) -> Any:
    if name in ("dag", "data"):
        return import_module(f"zerrow_ray.{name}")
    if name in _MODULES:
        return getattr(import_module(f"zerrow_ray.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
