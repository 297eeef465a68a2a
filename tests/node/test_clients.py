"""Clients of one store in one process: threads, several clients, forks, and what they map."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.node.helpers import Store, wait_until
from zerrow_store.native import _native


@pytest.fixture
def pinned() -> Callable[[], int]:
    """What the test has pinned: that of closed clients stays, as their objects may."""
    before = _native.arena_stats()["pinned"]
    return lambda: _native.arena_stats()["pinned"] - before


def numbers(rows: int = 100_000) -> pa.Table:
    column = pc.add(pa.array(range(1000)), 1)
    return pa.table({"n": pa.chunked_array([column] * (rows // 1000)).combine_chunks()})


def test_a_reader_cannot_write(store: Store) -> None:
    client = store.connect()
    object_id = client.put(numbers())
    reader = store.worker()
    reader.do(f"table = client.get({object_id!r})")
    assert reader.do("table['n'].chunk(0).buffers()[1].is_mutable") is False
    flags = reader.do("""
        address = table['n'].chunk(0).buffers()[1].address
        found = []
        for line in open('/proc/self/maps'):
            start, end = (int(part, 16) for part in line.split()[0].split('-'))
            if start <= address < end:
                found.append(line.split()[1])
        found
    """)
    assert [flag[:3] for flag in flags] == ["r--"]


def test_two_clients_of_one_process_share_its_arena(
    store: Store, pinned: Callable[[], int]
) -> None:
    first, second = store.connect(), store.connect()
    table = numbers()
    ids = [first.put(table), second.put(table), first.put(table)]
    assert first.get(ids[1]).equals(table)
    for object_id in ids[:2]:
        first.delete(object_id)
    assert second.get(ids[2]).equals(table)
    assert pinned() > 0
    second.delete(ids[2])
    wait_until(lambda: first.stats().bytes_stored == 0)
    wait_until(lambda: pinned() == 0)


def test_a_forked_child_is_a_client_of_its_own(store: Store) -> None:
    worker = store.worker()
    object_id = worker.do(
        "table = pa.table({'x': pc.add(pa.array(range(5000)), 1)})\nclient.put(table)"
    )
    status = worker.do(f"""
        pid = os.fork()
        if pid == 0:
            try:
                assert client.get({object_id!r}).equals(table)
                client.put(pa.table({{'y': pc.add(pa.array(range(5000)), 2)}}), object_id=b'child')
                assert client.get(b'child').num_rows == 5000
            except BaseException:
                import traceback; traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    """)
    assert status == 0
    assert worker.do(f"client.get({object_id!r}).equals(table)") is True
    # The child's table outlives the child.
    assert worker.do("client.get(b'child')['y'][4999].as_py()") == 5001
