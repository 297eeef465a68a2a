"""The resources of the nodes' stores, which all DAGs of this driver share."""

from zerrow_ray.dag.budget import Budget
from zerrow_ray.dag.disk import Disk, Speed
from zerrow_ray.jobs import announce_dags, jobs_that_run_dags
from zerrow_ray.store_stats import stats
from zerrow_store.budget import HIGH_WATERMARK


def _available(drivers: int, held: int) -> int:
    """Return the bytes that a driver's DAGs may hold in the stores of all nodes.

    A driver that runs DAGs alone may have all that nothing else takes. Several have equal parts.
    """
    nodes = stats().nodes.values()
    # Above the watermark the stores spill, even what a DAG has just decided to keep.
    budget = int(HIGH_WATERMARK * sum(node.budget for node in nodes))
    if drivers > 1:
        return budget // drivers
    stored: int = sum(node.bytes_stored for node in nodes)
    return budget - stored + held


def _disk_speed() -> Speed:
    """Return the speed of the slowest disks, as the stores have measured them."""
    nodes = stats().nodes.values()
    names = ("spill_bandwidth", "spill_processor_bandwidth", "read_back_bandwidth")
    return Speed(*(max(1 / getattr(node, name) for node in nodes) for name in names))


shared_budget = Budget(_available, drivers=jobs_that_run_dags, announce=announce_dags)
shared_disk = Disk(_disk_speed)
