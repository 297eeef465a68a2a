"""Put, get and delete, between processes and threads; pyarrow's own equality is the oracle."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import arrow_strategies
from tests.node.helpers import Store, descriptors, mappings, wait_until
from zerrow_store import ObjectExistsError, ObjectNotFoundError, StoreFullError
from zerrow_store.native import _native


@pytest.fixture
def pinned() -> Callable[[], int]:
    """What the test has pinned: that of closed clients stays, as their objects may."""
    before = _native.arena_stats()["pinned"]
    return lambda: _native.arena_stats()["pinned"] - before


def numbers(rows: int = 100_000) -> pa.Table:
    column = pc.add(pa.array(range(1000)), 1)
    return pa.table({"n": pa.chunked_array([column] * (rows // 1000)).combine_chunks()})


def test_what_one_process_puts_another_gets(store: Store) -> None:
    client = store.connect()
    table = numbers().replace_schema_metadata({"who": "me"})
    object_id = client.put(table)
    reader = store.worker()
    reader.do(f"table = client.get({object_id!r})")
    assert reader.do("table.validate(full=True); table.num_rows") == 100_000
    assert reader.do("table.schema.metadata") == {b"who": b"me"}
    assert reader.do("pc.sum(table['n']).as_py()") == pc.sum(table["n"]).as_py()
    stats = client.stats()
    assert (stats.objects, stats.bytes_copied) == (1, 0)
    assert table.nbytes <= stats.bytes_stored < 2 * table.nbytes


@pytest.mark.parametrize("kind", ["table", "batch", "chunked", "array"])
def test_an_object_comes_back_as_what_it_was(store: Store, kind: str) -> None:
    client = store.connect()
    table = numbers()
    made = {
        "table": table,
        "batch": table.to_batches()[0],
        "chunked": table["n"],
        "array": table["n"].chunk(0),
    }[kind]
    got = client.get(client.put(made))
    assert type(got) is type(made)
    assert got.equals(made)


@pytest.fixture(scope="module")
def _extension() -> Iterator[None]:
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")


@pytest.mark.usefixtures("_extension")
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_tables_of_every_type_make_the_trip(store: Store, data: st.DataObject) -> None:
    client = store.connected()
    table = data.draw(arrow_strategies.tables())
    object_id = client.put(table)
    got = client.get(object_id)
    got.validate(full=True)
    assert got.schema.equals(table.schema, check_metadata=True)
    assert got.equals(table)
    client.delete(object_id)


def test_other_libraries_tables_are_stored_as_arrow(store: Store) -> None:
    client = store.connect()
    frame = polars.DataFrame({"a": [1, 2, None], "b": ["x", None, "z"]})
    assert client.get(client.put(frame)).equals(pa.table(frame))
    relation = duckdb.sql("select i, i * 2 as twice from range(5) t(i)")
    assert client.get(client.put(relation)).to_pydict() == {
        "i": [0, 1, 2, 3, 4],
        "twice": [0, 2, 4, 6, 8],
    }
    with pytest.raises(TypeError, match="not Arrow data: int"):
        client.put(1)


def test_what_others_hold_is_stored_once(store: Store) -> None:
    client = store.connect()
    table = numbers()
    client.put(table)
    once = client.stats().bytes_stored
    worker = store.worker()
    (object_id,) = [info.object_id for info in client.list()]
    worker.do(f"table = client.get({object_id!r})")
    worker.do("ids = [client.put(table.slice(i, 50)) for i in range(10)]")
    worker.do("ids.append(client.put(table.append_column('again', table['n'])))")
    stats = client.stats()
    assert stats.objects == 12
    assert stats.bytes_stored == once
    assert stats.bytes_copied == 0


def test_an_object_never_changes(store: Store, pinned: Callable[[], int]) -> None:
    client = store.connect()
    client.put(numbers(), object_id=b"mine")
    before = pinned()
    with pytest.raises(ObjectExistsError, match="never change"):
        client.put(pa.table({"other": pc.add(pa.array(range(5000)), 1)}), object_id=b"mine")
    assert client.get(b"mine").column_names == ["n"]
    # What was not published is not kept either.
    assert pinned() == before


def test_what_is_not_there_says_so(store: Store) -> None:
    client = store.connect()
    with pytest.raises(ObjectNotFoundError, match=b"nothing".hex()) as caught:
        client.get(b"nothing")
    assert caught.value.object_id == b"nothing"
    with pytest.raises(ObjectNotFoundError):
        client.delete(b"nothing")
    client.delete(b"nothing", missing_ok=True)


def test_a_put_that_does_not_fit_says_how_much_there_is(
    store: Store, pinned: Callable[[], int]
) -> None:
    client = store.connect()
    client.put(numbers())
    used = client.stats().bytes_stored
    before = pinned()
    big = pa.Array.from_buffers(pa.int8(), 1 << 30, [None, pa.allocate_buffer(1 << 30)])
    with pytest.raises(StoreFullError) as caught:
        client.put(big)
    assert caught.value.budget == 1 << 30
    assert caught.value.used == used
    assert caught.value.needed >= 1 << 30
    assert pinned() == before
    assert client.stats().bytes_stored == used
    # A slice of what is in the store needs no room.
    client.put(client.get(client.list()[0].object_id).slice(5, 5))


def test_a_view_keeps_a_deleted_object(store: Store, pinned: Callable[[], int]) -> None:
    client = store.connect()
    object_id = client.put(numbers())
    expected = pc.sum(numbers()["n"]).as_py()
    stored = client.stats().bytes_stored
    reader = store.worker()
    reader.do(f"view = client.get({object_id!r})['n'].slice(0)")
    client.delete(object_id)
    with pytest.raises(ObjectNotFoundError):
        client.get(object_id)
    assert client.list() == []
    assert client.stats().bytes_stored == stored
    churn = [numbers() for _ in range(20)]
    assert reader.do("pc.sum(view).as_py()") == expected
    del churn
    reader.do("del view; gc.collect()")
    wait_until(lambda: client.stats().bytes_stored == 0)
    wait_until(lambda: pinned() == 0)


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


def test_threads_share_a_client(store: Store, pinned: Callable[[], int]) -> None:
    client = store.connect()
    start = threading.Barrier(8)

    def work(n: int) -> None:
        start.wait()
        for i in range(50):
            table = pa.table({"x": pc.add(pa.array(range(1000)), n * 1000 + i)})
            object_id = client.put(table)
            got = client.get(object_id)
            client.delete(object_id)
            assert got.equals(table)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    wait_until(lambda: client.stats().bytes_stored == 0)
    wait_until(lambda: pinned() == 0)


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


def test_ten_thousand_objects_leave_nothing(store: Store, pinned: Callable[[], int]) -> None:
    client = store.connect()
    server = store.server_pid()
    table = pa.table({"x": pc.add(pa.array(range(5000)), 1)})

    def trip(count: int) -> None:
        for _ in range(count):
            object_id = client.put(table.slice(0, 4000))
            assert client.get(object_id).num_rows == 4000
            client.delete(object_id)
        gc.collect()
        wait_until(lambda: client.stats().bytes_stored == 0)

    trip(500)
    before = [(descriptors(pid), mappings(pid)) for pid in (os.getpid(), server)]
    resident = _resident(server)
    trip(10_000)
    assert [(descriptors(pid), mappings(pid)) for pid in (os.getpid(), server)] == before
    assert _resident(server) < resident + (4 << 20)
    wait_until(lambda: pinned() == 0)


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
