"""kill -9, at everything: nothing readable is lost, nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pyarrow.compute as pc
import pytest
import ray

from tests.helpers.rays import RAY_OPTIONS, ROWS, make, store_pids, supervisor_pids, total
from tests.helpers.waiting import eventually


@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

    def make(self, n):
        return make(n)

    def keep(self, table):
        self.table = table
        return pc.sum(table["x"]).as_py()

    def publish_and_die(self):
        self.kept = ray.put(make())
        os.kill(os.getpid(), signal.SIGKILL)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_producer_killed_after_its_task_has_returned(cluster):
    worker = Worker.remote()
    ref = worker.make.remote(5)
    ray.wait([ref])
    kill(ray.get(worker.pid.remote()))
    assert ray.get(ref).equals(make(5))


def test_consumer_killed_with_views(cluster):
    before = total()["bytes_stored"]
    ref = ray.put(make())
    worker = Worker.remote()
    ray.get(worker.keep.remote(ref))
    kill(ray.get(worker.pid.remote()))
    assert ray.get(ref).equals(make())
    del ref
    eventually(lambda: total()["bytes_stored"] <= before, "what the dead consumer held is freed")


def test_producer_killed_in_the_middle(cluster):
    before = total()["bytes_stored"]
    worker = Worker.remote()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(worker.publish_and_die.remote())
    eventually(lambda: total()["bytes_stored"] <= before, "the dead producer's put is freed")


def test_store_killed(cluster):
    worker = Worker.remote()
    refs = [ray.put(make(1)), worker.make.remote(2)]
    view = ray.get(refs[0])
    ray.wait(refs, num_returns=2)
    (pid,) = store_pids()
    kill(pid)
    eventually(lambda: store_pids() and store_pids() != [pid], "the store is back")
    assert view.equals(make(1))
    assert ray.get(refs[0]).equals(make(1))
    assert ray.get(refs[1]).equals(make(2))
    fresh = Worker.remote()
    assert ray.get(fresh.keep.remote(refs[1])) == pc.sum(make(2)["x"]).as_py()
    assert ray.get(worker.make.remote(3)).equals(make(3))
    before = total()["bytes_stored"]
    del refs, view
    eventually(lambda: total()["bytes_stored"] < before, "objects from before the crash are freed")


def test_supervisors_killed(cluster):
    worker = Worker.remote()
    refs = [ray.put(make(1)), worker.make.remote(2)]
    ray.wait(refs, num_returns=2)
    eventually(lambda: len(supervisor_pids()) == 2, "both are there")
    pids = supervisor_pids()
    for pid in pids:
        kill(pid)
    assert ray.get(refs[0]).equals(make(1))
    eventually(
        lambda: len(set(supervisor_pids()) - set(pids)) == 2, "the server has started others"
    )
    assert ray.get(refs[1]).equals(make(2))
    fresh = Worker.remote()
    assert ray.get(fresh.keep.remote(refs[0])) == pc.sum(make(1)["x"]).as_py()
    # What came before it goes with its references, and so does what comes after.
    refs.clear()
    ray.kill(fresh)
    eventually(lambda: total()["bytes_stored"] == 0, "objects from before the crash are freed")
    before = total()["bytes_stored"]
    ref = worker.make.remote(3)
    assert ray.get(ref).equals(make(3))
    assert ray.get(ray.put(make(4))).equals(make(4))
    del ref
    eventually(lambda: total()["bytes_stored"] <= before, "objects of the time after are freed")


def test_producers_killed_soon_after_their_tasks(cluster):
    @ray.remote
    def returned_soon_before(table):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return table

    table = make()
    refs = [returned_soon_before.remote(table) for _ in range(4)]
    ray.wait(refs, num_returns=4)
    time.sleep(2)  # for the news of their ends to reach everybody
    for ref in refs:
        assert ray.get(ref).equals(table)
    before = total()["objects"]
    refs.clear()
    del ref
    eventually(lambda: total()["objects"] <= before - 4, "nothing of the dead is left")


DRIVER = """
import os, signal, sys, numpy as np, pyarrow as pa, ray, zerrow_ray
zerrow_ray.init(**{options!r})
ref = ray.put(pa.table({{"x": np.arange(1_000_000)}}))
@ray.remote
def f(t):
    return t.append_column("y", t["x"])
out = f.remote(ref)
ray.get(out)
from tests.helpers.rays import store_pids
from tests.helpers.processes import descendants, names_of
node = ray.get_runtime_context().get_node_id()
assert node in open("/proc/net/unix").read()
# Without Ray's agents, which poll for the raylet and stay where nobody reaps it.
names = names_of(descendants(os.getpid()))
mine = [pid for pid, name in names.items() if "Agent" not in name]
print(node, *store_pids(), *mine, flush=True)
if {kill}:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("killed", [False, True], ids=["ends", "kill -9"])
def test_nothing_remains_of_a_driver(killed):
    code = textwrap.dedent(DRIVER.format(options=RAY_OPTIONS, kill=killed))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as driver:
        assert driver.stdout is not None
        node, *numbers = driver.stdout.readline().split()
        pids = [int(pid) for pid in numbers]
    assert pids
    assert driver.returncode == (-signal.SIGKILL if killed else 0)

    def gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    eventually(lambda: all(map(gone, pids)), "all of the driver's processes are gone")
    # An abstract socket is gone with its last process; memfds are, too: they have no name.
    unix = Path("/proc/net/unix")
    eventually(lambda: node not in unix.read_text(), "nobody listens any more")


def test_all_of_the_store_killed(cluster):
    """What was stored is lost, what is read is not; and there is a store again."""
    view = ray.get(ray.put(make(1)))
    pids = [*supervisor_pids(), *store_pids()]
    for pid in pids:
        kill(pid)
    assert view.equals(make(1))

    def is_back() -> bool:
        return bool(set(store_pids()) - set(pids))

    eventually(is_back, "somebody has started another one")
    before = total()["bytes_shared"]
    ref = Worker.remote().make.remote(2)
    assert ray.get(ref).equals(make(2))
    assert ray.get(ray.put(make(3))).equals(make(3))
    assert total()["bytes_shared"] >= before + 8 * ROWS


def test_a_worker_whose_raylet_has_ended_fails_no_task(tmp_path: Path) -> None:
    """It ends, as it would by itself soon, and the task runs again."""
    tried = tmp_path / "tried"

    @ray.remote(max_retries=1)
    def read() -> str:
        if tried.exists():
            return "again"
        tried.touch()
        from zerrow_ray import ray_compat, session, store
        from zerrow_store.errors import StoreUnavailableError

        def start(node_id: str) -> None:
            raise StoreUnavailableError("it did not start")

        def raylet_pid() -> int:
            raise ConnectionRefusedError

        store.start, ray_compat.raylet_pid = start, raylet_pid
        session.Session("no such node")
        return "not reached"

    assert ray.get(read.remote()) == "again"
