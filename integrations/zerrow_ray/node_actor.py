"""The actor of each node: supervises the node's store, owns leases, says where it serves objects.

Detached and restarted by Ray, so that it outlives the job that made it; it ends, with the store,
when no job is left in the cluster. The store itself outlives a crash of this actor (see
`zerrow_store.node.supervisor`). Leases do not: what was published under those of a crashed actor
stays until the jobs of that time have ended, and so does what a worker published just before its
end.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray

from zerrow_ray import transfers
from zerrow_ray.config import store_name
from zerrow_ray.jobs import live_jobs
from zerrow_ray.ray_compat import logs_directory, when_out_of_scope
from zerrow_ray.settings import announced
from zerrow_store import memory, threads
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.node.client import Client
from zerrow_store.node.segments import is_running
from zerrow_store.node.supervisor import Supervisor
from zerrow_store.sandbox.stats import SandboxStats

logger = logging.getLogger("zerrow_ray")

Worker = tuple[int, int, bytes | None]
"""A process of this node: its id, when it was started, and its job; None for a detached actor's,
which may outlive its job."""

_JOB_POLL_SECONDS = 1.0


@ray.remote
class NodeActor:
    """See the module. `node_id` is the Ray node's id in hexadecimal."""

    def __init__(self, node_id: str) -> None:
        name = store_name(node_id)
        memory.start()
        settings = announced()
        self._supervisor = Supervisor(
            name,
            budget=settings.budget(),
            eviction=settings.policy(),
            watch_pid=int(os.environ["RAY_RAYLET_PID"]),
            log=logs_directory() / f"zerrow-store-{node_id[:12]}.log",
        )
        self._supervisor.start()
        self._client = Client(name)
        self._sandbox_counts = Counter(SandboxStats().as_dict())
        self._sandbox_lock = threading.Lock()
        self._gone: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lent_lock = threading.Lock()
        self._lent: dict[bytes, Worker] = {}
        self._unused: set[bytes] = set()
        self._orphans_lock = threading.Lock()
        self._orphans: list[bytes] = []
        self._jobs_of_orphans: set[bytes] = set()
        self._add_orphans([info.object_id for info in self._client.list()])
        threads.start(self._release, name="zerrow-release")
        threads.start(self._watch_jobs, name="zerrow-jobs")

    def ready(self) -> None:
        """Return when the store answers."""

    def pid(self) -> int:
        """Return the process id of this actor."""
        return os.getpid()

    def leases(self, count: int, worker: Worker) -> tuple[bytes, list[ray.ObjectRef]]:
        """Return the supervisor's id and `count` fresh leases for a worker to use.

        An object is named after its lease and dies with it. One more lease comes last, which the
        worker keeps unused, see `_release`.
        """
        leases = [ray.put(None) for _ in range(count + 1)]
        with self._lent_lock:
            self._lent.update({lease.binary(): worker for lease in leases})
            self._unused.add(leases[-1].binary())
        for lease in leases:
            when_out_of_scope(lease, self._gone.put)
        return self._supervisor.id, leases

    def stats(self) -> dict[str, Any]:
        """Return the store's figures, and those of the node's sandboxes."""
        with self._sandbox_lock:
            return self._client.stats().as_dict() | {"sandbox": dict(self._sandbox_counts)}

    def spill_ahead(self, object_ids: list[bytes]) -> None:
        """Have objects of this node's store spilled as soon as nobody reads them."""
        self._client.spill_ahead(object_ids)

    def read_ahead(self, object_ids: list[bytes]) -> None:
        """Have what of these objects is on disk read into memory."""
        self._client.read_ahead(object_ids)

    def count_sandbox(self, increments: dict[str, int]) -> None:
        """Add what the sandboxes of one of the node's workers have done."""
        with self._sandbox_lock:
            self._sandbox_counts.update(increments)

    def location(self) -> str:
        """Return where other nodes fetch this node's objects."""
        return transfers.serve(self._client.name)

    def _release(self) -> None:
        """Delete objects whose leases have ended.

        Ray forgets who else has a lease when the worker that it was lent to ends before Ray has
        asked it: all leases that it still knows of there end then, about a second after the
        worker. What ends after its worker, and not after all of these, may still be needed, and
        nobody is going to say when it no longer is.
        """
        swept: set[Worker] = set()
        while True:
            gone = self._gone_by_now([self._gone.get()])
            if not self._unused.isdisjoint(gone):
                gone = self._gone_by_now(gone)  # the rest of those
            with self._lent_lock:
                lent = {lease: self._lent.pop(lease) for lease in gone}
                told_of = {lent[lease] for lease in self._unused & lent.keys()}
                self._unused -= lent.keys()
            ended = {worker for worker in {*lent.values()} if not is_running(*worker[:2])}
            in_doubt = (told_of | ended) - swept
            swept |= told_of
            # With a job its objects end, as those of all owners that end.
            live = _jobs_for_sure() if in_doubt else set()
            in_doubt = {worker for worker in in_doubt if worker[2] is None or worker[2] in live}
            self._add_orphans([lease for lease, worker in lent.items() if worker in in_doubt])
            # Without a store, the client deletes them as soon as there is one again.
            with contextlib.suppress(StoreUnavailableError):
                released = [lease for lease, worker in lent.items() if worker not in in_doubt]
                self._client.delete(released, missing_ok=True)

    def _gone_by_now(self, gone: list[bytes]) -> list[bytes]:
        """Return `gone` and what else Ray was about to tell."""
        ray.get(ray.get_runtime_context().current_actor.ready.remote())
        while not self._gone.empty():
            gone.append(self._gone.get())
        return gone

    def _add_orphans(self, object_ids: Sequence[bytes]) -> None:
        """Keep objects whose leases tell nothing any more until the jobs of now have ended."""
        if object_ids:
            with self._orphans_lock:
                self._jobs_of_orphans |= _jobs_for_sure()
                self._orphans += object_ids

    def _delete_orphans(self, live: set[bytes]) -> None:
        with self._orphans_lock:
            if self._orphans and not live & self._jobs_of_orphans:
                self._client.delete(self._orphans, missing_ok=True)
                self._orphans, self._jobs_of_orphans = [], set()

    def _watch_jobs(self) -> None:
        while live := _jobs_for_sure():
            self._delete_orphans(live)
            time.sleep(_JOB_POLL_SECONDS)
        self._supervisor.stop()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _jobs_for_sure() -> set[bytes]:
    """Return the running jobs, as soon as Ray can say so."""
    while True:
        try:
            return live_jobs()
        except Exception as error:  # whatever Ray raises while its control store is away
            logger.warning("cannot ask for the cluster's jobs: %s", error)
            time.sleep(_JOB_POLL_SECONDS)
