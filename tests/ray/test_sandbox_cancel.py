"""A sandboxed task that is cancelled, or whose worker is killed, leaves nothing behind."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayError, TaskCancelledError, WorkerCrashedError

import zerrow_ray
from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.processes import descendants
from tests.helpers.rays import total
from tests.helpers.sandboxes import groups
from tests.helpers.waiting import eventually
from zerrow_store.sandbox import cgroups

pytestmark = [needs_sandboxes, pytest.mark.usefixtures("cluster")]


@zerrow_ray.sandboxed(memory="512MiB")
@ray.remote(max_retries=0)
def blocks(name: str, table: pa.Table) -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep-" + name, "1000"])
    while True:
        time.sleep(1)


@ray.remote
def quick() -> int:
    return 1


def _children(name: str) -> list[int]:
    """Pids of what the task has started inside."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and b"sleep-" + name.encode() in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _worker_of(pid: int) -> int:
    """The Ray worker above a process inside."""
    while True:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if b"zygote" not in Path(f"/proc/{parent}/cmdline").read_bytes():
            return parent
        pid = parent


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _namespace(pid: int) -> str:
    """The PID namespace of a process: one for each sandbox."""
    return os.readlink(f"/proc/{pid}/ns/pid")


def _started(name: str) -> int:
    eventually(lambda: _children(name), "the task is running")
    return _worker_of(_children(name)[0])


@pytest.mark.parametrize("force", [False, True])
def test_cancelled(force: bool, big: pa.Table) -> None:
    name = f"cancelled-{force}"
    table = ray.put(big)
    task = blocks.remote(name, table)
    worker = _started(name)
    inside = descendants(worker)
    assert len(inside) >= 4
    call = [pid for pid in inside if _namespace(pid) == _namespace(_children(name)[0])]
    assert len(call) >= 2
    ray.cancel(task, force=force)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        ray.get(task)
    eventually(lambda: not _children(name), "what it started inside has ended")
    if force:
        eventually(lambda: not _alive(inside), "all has ended")
        cgroups.hierarchies.cache_clear()
        cgroups.hierarchies()  # the next process that looks for groups removes those of the dead
        eventually(lambda: not groups(worker), "its control groups are gone")
    else:
        eventually(lambda: not _alive(call), "the call's sandbox has ended")
        assert _alive([worker])
        # What the worker keeps ready has one group, or none, and nothing of the call's.
        eventually(lambda: len(groups(worker)) <= 2, "its control group is gone")
    assert ray.get(quick.remote()) == 1
    assert ray.get(table).equals(big)
    del table, task
    eventually(lambda: total()["bytes_stored"] == 0, "its input has gone")


def test_its_worker_is_killed(big: pa.Table) -> None:
    task = blocks.remote("killed", big)
    worker = _started("killed")
    inside = descendants(worker)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(RayError):
        ray.get(task)
    eventually(lambda: not _alive(inside), "all has ended")
    del task
    eventually(lambda: total()["bytes_stored"] == 0, "its input has gone")
