"""Arrow tables by reference in Ray.

    import ray, zerrow_ray
    zerrow_ray.init()            # ray.init's arguments

and `ray.put`, `ray.get`, task arguments and results carry tables without copying them. Or, with
no change of code, `RAY_RUNTIME_ENV_HOOK=zerrow_ray.runtime_env_hook`.
"""

from zerrow_ray.lifecycle import init, register, runtime_env_hook, worker_setup
from zerrow_ray.sandbox import sandboxed
from zerrow_ray.stats import stats

__all__ = ["init", "register", "runtime_env_hook", "sandboxed", "stats", "worker_setup"]
