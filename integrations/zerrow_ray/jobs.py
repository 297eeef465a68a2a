"""The cluster's jobs, and which of them run DAGs at the moment: those share the stores' memory."""

import ray

from zerrow_ray import ray_compat

_RUNS_DAGS = b"zerrow_ray:runs_dags:"


def live_jobs() -> set[bytes]:
    """Ids of the cluster's running jobs, Ray's own internal ones left out."""
    return {
        job_id
        for job_id, is_over, namespace in ray_compat.jobs()
        if not is_over and not namespace.startswith("_ray_internal")
    }


def announce_dags(running: bool) -> None:
    """Say that this job runs DAGs from now on, or no more."""
    key = _RUNS_DAGS + ray.get_runtime_context().get_job_id().encode()
    if running:
        ray_compat.kv_put(key, b"", overwrite=True)
    else:
        ray_compat.kv_del(key)


def jobs_that_run_dags() -> int:
    """Return how many jobs have said so and have not ended since."""
    announced = {bytes.fromhex(key[len(_RUNS_DAGS) :].decode()) for key in _announced()}
    return len(announced & live_jobs())


def _announced() -> list[bytes]:
    keys: list[bytes] = ray_compat.kv_list(_RUNS_DAGS)
    return keys
