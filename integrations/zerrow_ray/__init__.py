"""Arrow tables by reference in Ray.

    import ray, zerrow_ray
    zerrow_ray.init()            # ray.init's arguments

and `ray.put`, `ray.get`, task arguments and results carry tables without copying them. Or, with
no change of code, `RAY_RUNTIME_ENV_HOOK=zerrow_ray.runtime_env_hook`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zerrow_ray.lifecycle import init, register, runtime_env_hook, worker_setup
from zerrow_ray.reading import read_parquet
from zerrow_ray.stats import stats

if TYPE_CHECKING:
    from zerrow_ray.datasource import read_parquet_dataset

__all__ = [
    "dag",
    "init",
    "read_parquet",
    "read_parquet_dataset",
    "register",
    "runtime_env_hook",
    "stats",
    "worker_setup",
]


def __getattr__(name: str) -> Any:
    # Every worker imports this package, few run DAGs or Ray Data, which takes long to load.
    if name == "dag":
        return importlib.import_module("zerrow_ray.dag")
    if name == "read_parquet_dataset":
        return importlib.import_module("zerrow_ray.datasource").read_parquet_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
