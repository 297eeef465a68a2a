"""Ray's own object store and the node's store share the memory of their node.

Each case is a process of its own with its own Ray. Everything that it starts is in its cgroup. Ray
looks for the limit where a container has it.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zerrow_store.config import memory_limit

GROUPS = Path("/sys/fs/cgroup/memory")
MIB = 1 << 20
LIMIT = 4096 * MIB

needs_groups = pytest.mark.skipif(
    os.geteuid() != 0 or not (GROUPS / "memory.stat").exists(),
    reason="needs root and a memory cgroup of version 1",
)

SEE_IT_AS_CONTAINERS_DO = 'mount --bind "$1" /sys/fs/cgroup/memory && shift && exec "$@"'

START = """
import numpy as np, pyarrow as pa, ray
import zerrow_ray
from zerrow_store.config import memory_limit

def start(**options):
    zerrow_ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="error", _node_ip_address="127.0.0.1", **options,
    )
    rays_own = int(ray.cluster_resources()["object_store_memory"])
    (node,) = zerrow_ray.stats().nodes.values()
    return rays_own, node.budget
"""


@pytest.fixture
def group() -> Iterator[Path]:
    made = GROUPS / f"zerrow-{os.urandom(4).hex()}"
    made.mkdir()
    (made / "memory.limit_in_bytes").write_text(str(LIMIT))
    yield made
    for pid in (made / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    _remove(made)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            group.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{group} still has processes"
            time.sleep(0.05)
        else:
            return


def run(code: str, *, group: Path | None = None, **environ: str) -> None:
    apart = {name: value for name, value in os.environ.items() if name != "ZERROW_MEMORY"}

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    command: list[object] = [sys.executable, "-c", START + textwrap.dedent(code)]
    if group is not None:
        command = ["unshare", "--mount", "sh", "-c", SEE_IT_AS_CONTAINERS_DO, "sh", group, *command]
    done = subprocess.run(
        command,
        env=apart | environ,
        preexec_fn=enter,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_the_store_has_what_ray_leaves_of_it() -> None:
    run(
        f"""
        rays_own, budget = start(object_store_memory={512 * MIB})
        assert rays_own == {512 * MIB}
        assert abs(rays_own + budget - 0.6 * {memory_limit()}) < 2, (rays_own, budget)
        """
    )


def test_what_is_asked_for_counts() -> None:
    run(f"assert start(memory='300MiB', object_store_memory={80 * MIB})[1] == {300 * MIB}")
    run(
        f"assert start(object_store_memory={80 * MIB})[1] == {200 * MIB}",
        ZERROW_MEMORY="200MiB",
    )


@needs_groups
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_stores_full_leave_the_group_room_for_processes(group: Path) -> None:
    run(
        f"""
        assert memory_limit() == {LIMIT}
        rays_own, budget = start()
        assert 0.25 * {LIMIT} < rays_own < 0.35 * {LIMIT}, rays_own
        assert abs(rays_own + budget - 0.6 * {LIMIT}) < 2, (rays_own, budget)

        @ray.remote
        def table(seed):
            return pa.table({{"x": np.full({64 * MIB} // 8, seed)}})

        arrays = [ray.put(np.full({64 * MIB} // 8, n)) for n in range(rays_own // {64 * MIB} - 1)]
        tables = [table.remote(n) for n in range(budget // {64 * MIB} + 4)]
        ray.wait(tables, num_returns=len(tables), fetch_local=False)
        for n, ref in enumerate(arrays):
            assert ray.get(ref)[-1] == n
        for n, ref in enumerate(tables):
            assert ray.get(ref)["x"][-1].as_py() == n
        """,
        group=group,
    )
    control = (group / "memory.oom_control").read_text()
    assert "oom_kill 0" in control, control
