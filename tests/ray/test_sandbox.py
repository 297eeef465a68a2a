"""`@zerrow_ray.sandboxed`: tasks whose function runs confined."""

import errno
import os
import socket
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.exceptions import RayTaskError

import zerrow_ray
from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.rays import total
from tests.helpers.waiting import eventually
from zerrow_ray.config import store_name
from zerrow_store.errors import SandboxError, SandboxMemoryError, SandboxTimeoutError
from zerrow_store.protocol import sockets

pytestmark = [needs_sandboxes, pytest.mark.usefixtures("cluster")]


def test_a_task_like_any_other(big: pa.Table) -> None:
    @zerrow_ray.sandboxed(memory="1GiB")
    @ray.remote(num_cpus=1)
    def add(table: pa.Table, k: int = 1) -> pa.Table:
        return pa.table({"sum": pc.add(table["c0"], k)})

    @ray.remote
    @zerrow_ray.sandboxed
    def count(table: pa.Table) -> int:
        return int(table.num_rows)

    result = add.remote(ray.put(big), k=5)
    assert ray.get(count.remote(result)) == big.num_rows
    assert ray.get(result)["sum"].equals(pc.add(big["c0"], 5))
    del result
    eventually(lambda: total()["bytes_stored"] == 0, "the result's segment has gone")


def test_it_is_confined() -> None:
    @zerrow_ray.sandboxed
    @ray.remote
    def look() -> list[object]:
        return [os.path.exists("/tmp/ray"), sorted(os.environ), os.listdir("/home")]

    ray_there, names, homes = ray.get(look.remote())
    assert not ray_there
    assert not [name for name in names if "RAY" in name]
    assert homes == ["sandbox"]


def _reach(family: int, address: Any) -> str:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.connect(address)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "reached"


def test_neither_rays_ports_nor_the_store_are_reached() -> None:
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    places = [
        (socket.AF_INET, (host, int(port))),
        (socket.AF_UNIX, sockets.address(store_name(context.get_node_id()))),
    ]
    zerrow_ray.stats()  # the store is there
    inside = ray.remote(zerrow_ray.sandboxed(_reach))
    networked = ray.remote(zerrow_ray.sandboxed(network=True)(_reach))
    outside = ray.remote(_reach)
    assert [ray.get(outside.remote(*place)) for place in places] == ["reached"] * 2
    gcs, store = [ray.get(inside.remote(*place)) for place in places]
    assert gcs in ("ENETUNREACH", "ECONNREFUSED")  # as it is another interface's, or the loopback's
    assert store == "ECONNREFUSED"
    # The host's network is Ray's, too; the store's socket is not of it.
    assert [ray.get(networked.remote(*p)) for p in places] == ["reached", "EAFNOSUPPORT"]


def test_errors() -> None:
    @zerrow_ray.sandboxed
    @ray.remote
    def fails() -> None:
        raise KeyError("this")

    @zerrow_ray.sandboxed(memory="128MiB")
    @ray.remote
    def fills() -> None:
        bytearray(os.urandom(1 << 30))

    @zerrow_ray.sandboxed(timeout=0.5)
    @ray.remote
    def blocks() -> None:
        while True:
            pass

    for task, kind, text in (
        (fails, SandboxError, "KeyError: 'this'"),
        (fills, SandboxMemoryError, "134,217,728"),
        (blocks, SandboxTimeoutError, "longer than 0.5 s"),
    ):
        with pytest.raises(RayTaskError, match=text) as caught:
            ray.get(task.options(max_retries=0).remote())
        assert isinstance(caught.value.cause, kind)


def test_figures(big: pa.Table) -> None:
    # No other test's sandboxes have as much memory: none of those is ready for these calls.
    @zerrow_ray.sandboxed(timeout=20, memory="768MiB")
    @ray.remote(max_retries=0)
    def work(number: int, table: pa.Table) -> pa.Table:
        if number == 3:
            raise KeyError(number)
        return pa.table({"sum": pc.add(table["c0"], number)})

    before = total()["sandbox"]
    table = ray.put(big)
    tasks = [work.remote(number, table) for number in range(6)]
    ready, _ = ray.wait(tasks, num_returns=6, timeout=None)
    assert len(ready) == 6

    def since() -> dict[str, int]:
        return {name: count - before[name] for name, count in total()["sandbox"].items()}

    eventually(lambda: since()["calls"] == 6, "all calls are counted")
    moved = since()
    assert moved["failed"] == 1
    assert moved["timeouts"] == moved["out_of_memory"] == moved["broken"] == 0
    assert moved["warm"] + moved["waited"] + moved["cold"] == 6
    assert moved["started"] >= moved["cold"] > 0
    # With validity bitmaps, which `nbytes` leaves out.
    assert 1 <= moved["bytes_returned"] / (5 * big["c0"].nbytes) < 1.02
    assert moved["bytes_copied"] >= big.nbytes
    assert sum(n.sandbox.calls for n in zerrow_ray.stats().nodes.values()) >= 6


def test_what_it_prints_is_in_rays_log() -> None:
    word = uuid.uuid4().hex

    @zerrow_ray.sandboxed
    @ray.remote
    def speaks() -> None:
        print(f"out {word}")
        os.write(2, f"err {word}\n".encode())

    ray.get(speaks.remote())
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())

    def said(kind: str) -> bool:
        return any(f"{kind} {word}" in log.read_text() for log in logs.glob(f"worker-*.{kind}"))

    eventually(lambda: said("out") and said("err"), "both are in the worker's log")


def test_what_cannot_be_sandboxed() -> None:
    with pytest.raises(TypeError, match="plain functions"):

        @zerrow_ray.sandboxed
        @ray.remote
        def generator() -> object:
            yield 1

    with pytest.raises(TypeError, match="runs functions"):

        @zerrow_ray.sandboxed
        class Actor:
            pass
