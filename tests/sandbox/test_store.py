"""A sandbox's output in a store: it has no process, and lives as long as somebody refers to it."""

import gc
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.stores import Store
from tests.helpers.waiting import eventually
from zerrow_store import sandbox

pytestmark = needs_sandboxes

ROWS = 100_000
EXPECTED = [float(n) * 3 for n in range(ROWS)]
BYTES = ROWS * 8


def _result(rows: int = ROWS) -> pa.Table:
    return sandbox.run(
        lambda n: pa.table({"x": pc.multiply(pa.array(np.arange(n) * 1.0), 3)}), rows
    )


def _kill(store: Store) -> None:
    killed = store.server_pid()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: store.remains() not in ([], [killed]), "another server has started")


def test_it_survives_the_store(store: Store) -> None:
    reader = store.worker()
    client = store.connect()
    kept = client.put(_result())
    gc.collect()
    sandbox.close()  # and neither its sandbox nor this process has it any more
    reader.do(f"early = client.get({kept!r})")
    for _ in range(2):
        _kill(store)
        assert client.get(kept)["x"].to_pylist() == EXPECTED
        assert reader.do("early['x'].to_pylist()") == EXPECTED
        assert reader.do(f"client.get({kept!r})['x'].to_pylist()") == EXPECTED
    reader.do("del early; gc.collect()")
    client.delete(kept)
    gc.collect()
    eventually(lambda: store.memory() == 0, "the store has given its memory back")
    assert client.stats().objects == 0


def test_it_is_put_while_the_store_starts_again(store: Store) -> None:
    client = store.connect()
    table = _result()
    _kill(store)
    object_id = client.put(table)
    assert store.worker().do(f"client.get({object_id!r})['x'].to_pylist()") == EXPECTED


def test_it_survives_who_received_it(store: Store) -> None:
    worker = store.worker()
    object_id = worker.do("""
        import numpy as np
        from zerrow_store import sandbox
        compute = lambda: pa.table({"x": pc.multiply(pa.array(np.arange(100_000) * 1.0), 3)})
        client.put(sandbox.run(compute))
    """)
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: not _runs(worker.pid), "the receiver has ended")
    client = store.connect()
    assert client.get(object_id)["x"].to_pylist() == EXPECTED
    _kill(store)
    assert client.get(object_id)["x"].to_pylist() == EXPECTED
    client.delete(object_id)
    gc.collect()
    eventually(lambda: store.memory() == 0, "the store has given its memory back")


def test_two_results_of_a_sandbox_go_one_by_one(store: Store) -> None:
    client = store.connect()
    first, second = client.put(_result()), client.put(_result(2 * ROWS))
    gc.collect()
    eventually(lambda: store.memory() >= 3 * BYTES, "both are there")
    client.delete(second)
    gc.collect()
    eventually(lambda: BYTES <= store.memory() < 2 * BYTES, "the second has gone as a whole")
    _kill(store)
    assert client.get(first)["x"].to_pylist() == EXPECTED


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_waits_for_room_as_other_puts_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    store = Store(f"sandbox-{os.urandom(4).hex()}", budget=4 * BYTES)
    try:
        client = store.connect()
        kept = []
        for _ in range(12):
            kept.append(client.put(_result()))
            gc.collect()
        assert client.stats().bytes_spilled >= 8 * BYTES
        for object_id in kept:
            assert client.get(object_id)["x"].to_pylist() == EXPECTED
    finally:
        store.stop()


def test_one_that_waits_for_room_leaves_nothing_when_its_process_ends() -> None:
    store = Store(f"sandbox-{os.urandom(4).hex()}", budget=4 * BYTES)
    try:
        client = store.connect()
        reader, writer = store.worker(), store.worker()
        reader.do("column = pc.add(pa.array([1] * 400_000), 0)")
        reader.do("view = client.get(client.put(pa.table({'x': column})))")
        writer.do("from tests.sandbox.test_store import _result; table = _result()")
        os.kill(reader.pid, signal.SIGSTOP)
        _kill(store)  # puts that need room wait a while for the reader to come back
        eventually(lambda: client.stats().clients == 2, "the others are connected again")
        writer.start("client.put(table)")
        eventually(lambda: client.stats().segments == 2, "the store has taken the result over")
        writer.kill()
        eventually(lambda: client.stats().segments == 1, "the store has let go of it")
        os.kill(reader.pid, signal.SIGCONT)
        assert reader.do("view['x'].chunk(0).equals(column)")
    finally:
        store.stop()
