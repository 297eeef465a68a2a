"""The cluster's jobs. Those that run DAGs at the same time share the stores' memory."""

import ray

from zerrow_ray import ray_compat

_RUNS_DAGS = b"zerrow_ray:runs_dags:"


def live_jobs() -> set[bytes]:
    """Return the ids of the running jobs, without Ray's internal ones."""
    return {
        job_id
        for job_id, is_over, namespace in ray_compat.jobs()
        if not is_over and not namespace.startswith("_ray_internal")
    }


def announce_dags(running: bool) -> None:
    """Publish whether this job runs DAGs."""
    key = _RUNS_DAGS + ray.get_runtime_context().get_job_id().encode()
    if running:
        ray_compat.kv_put(key, b"", overwrite=True)
    else:
        ray_compat.kv_del(key)


def jobs_that_run_dags() -> int:
    """Return how many running jobs have published that they run DAGs."""
    announced = {bytes.fromhex(key[len(_RUNS_DAGS) :].decode()) for key in _announced()}
    return len(announced & live_jobs())


def _announced() -> list[bytes]:
    keys: list[bytes] = ray_compat.kv_list(_RUNS_DAGS)
    return keys
