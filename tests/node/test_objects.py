"""Objects of a store: putting, getting, deleting, and how long their bytes stay."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

import zerrow_store
from tests.helpers import arrow_strategies
from tests.helpers.arena import pinned
from tests.helpers.data import table
from tests.helpers.huge_pages import needs_root
from tests.helpers.publishing import MOVING
from tests.helpers.python import run_python
from tests.helpers.waiting import eventually
from zerrow_store.client.connection import Connection
from zerrow_store.native import _native
from zerrow_store.server.supervisor import Supervisor

EDGES = 2 * 4096 if MOVING else 0
"""What may be copied of a buffer: its first and last page, where pages are moved."""


def test_round_trip_and_listing(client):
    data = table()
    object_id = client.put(data)
    assert client.get(object_id).equals(data)
    (info,) = client.list()
    assert (info.object_id, info.nbytes) == (object_id, data.nbytes)
    stats = client.stats()
    assert (stats.objects, stats.bytes_stored) == (1, data.nbytes)
    assert (stats.bytes_shared + stats.bytes_copied, stats.budget) == (data.nbytes, 1 << 30)
    assert stats.bytes_copied <= EDGES * 2  # one buffer in each column


@pytest.mark.parametrize("kind", ["RecordBatch", "ChunkedArray", "Array"])
def test_other_kinds(client, kind):
    data = table()
    value = {
        "RecordBatch": data.to_batches()[0],
        "ChunkedArray": data["x"],
        "Array": data["x"].chunk(0),
    }[kind]
    got = client.get(client.put(value))
    assert type(got) is type(value)
    assert got.equals(value)


def test_what_exports_an_arrow_stream_is_stored_as_a_table(client):
    polars = pytest.importorskip("polars")
    got = client.get(client.put(polars.DataFrame({"a": [1, 2, 3]})))
    assert got.equals(pa.table({"a": [1, 2, 3]}))


def test_what_is_not_arrow_is_refused(client):
    with pytest.raises(TypeError, match="not Arrow data: int"):
        client.put(7)


def test_unknown_and_deleted_objects(client):
    with pytest.raises(zerrow_store.ObjectNotFoundError, match="no object 00ff in the store"):
        client.get(b"\x00\xff")
    with pytest.raises(zerrow_store.ObjectNotFoundError):
        client.delete(b"\x00\xff")
    client.delete(b"\x00\xff", missing_ok=True)
    object_id = client.put(table())
    client.delete(object_id)
    with pytest.raises(zerrow_store.ObjectNotFoundError):
        client.get(object_id)


def test_an_object_never_changes(client):
    before = pinned()
    object_id = client.put(table(), object_id=b"mine")
    with pytest.raises(zerrow_store.ObjectExistsError):
        client.put(table(start=5), object_id=object_id)
    assert client.get(b"mine").equals(table())
    client.delete(b"mine")
    eventually(lambda: pinned() == before, "all is unpinned", seconds=20)


def read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def through_c_stream(data: pa.Table) -> pa.Table:
    return pa.RecordBatchReader.from_stream(data).read_all()


def through_c_array(data: pa.Array) -> pa.Array:
    return pa.Array._import_from_c_capsule(*data.__arrow_c_array__())


@pytest.mark.parametrize(
    "shown",
    [
        lambda array: pa.table({"x": array}),
        lambda array: pa.table({"x": read_only(array)}),
        lambda array: pa.table({"x": np.broadcast_to(array, array.shape)}),
        lambda array: pa.table({"x": pa.array(read_only(array)).slice(0)}),
        lambda array: pa.table(pd.DataFrame({"x": array}, copy=False)),
        lambda array: pd.DataFrame({"x": array}, copy=False),
        lambda array: through_c_stream(pa.table({"x": array})),
        lambda array: pa.table({"x": through_c_array(pa.array(array))}),
        lambda array: pa.table({"x": through_c_array(pa.array(array)).slice(0)}),
        lambda array: pl.from_arrow(pa.table({"x": array})).to_arrow(),
    ],
)
def test_an_object_does_not_change_with_an_array_that_arrow_has_allocated(client, shown):
    """Also where what is put is a read-only view of it, as pandas hands them out."""
    array = pa.chunked_array([[1] * 50_000] * 2).to_numpy()
    object_id = client.put(shown(array))
    array[:] = -1
    assert client.get(object_id)["x"].unique().to_pylist() == [1]


@pytest.mark.parametrize("resizable", [False, True])
@pytest.mark.parametrize("pool", [None, pa.default_memory_pool, pa.system_memory_pool])
def test_an_object_does_not_change_with_a_buffer_that_is_filled_again(client, pool, resizable):
    rows = 100_000
    buffer = pa.allocate_buffer(8 * rows, pool and pool(), resizable=resizable)
    column = np.frombuffer(buffer, "i8")
    column[:] = 1
    data = pa.table({"x": pa.Array.from_buffers(pa.int64(), rows, [None, buffer])})
    object_id = client.put(data)
    with pa.FixedSizeBufferWriter(buffer) as writer:
        writer.write(np.full(rows, -1))
    assert client.get(object_id)["x"].unique().to_pylist() == [1]


@pytest.mark.parametrize("default", ["system", "mimalloc", "jemalloc"])
def test_nor_where_the_default_pool_is_another_one(store, default):
    code = f"""
    import numpy as np, pyarrow as pa, zerrow_store
    assert pa.default_memory_pool().backend_name == "{default}"
    client = zerrow_store.connect({store.name!r})
    buffer = pa.allocate_buffer(800_000)
    column = np.frombuffer(buffer, "i8")
    column[:] = 1
    data = pa.table({{"x": pa.Array.from_buffers(pa.int64(), 100_000, [None, buffer])}})
    object_id = client.put(data)
    column[:] = 2
    assert client.get(object_id)["x"].unique().to_pylist() == [1]
    """
    run_python(code, ARROW_DEFAULT_MEMORY_POOL=default)


@needs_root
def test_a_process_that_has_changed_its_user_is_told_what_is_wrong():
    """Readers could not open its arena, nor can a store that is another user's than root's."""
    run_python(
        """
        import os
        from zerrow_store import errors, memory, segments
        from zerrow_store.native import _native
        memory.start()
        _, fd, size = _native.arena_segment()
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try: segments.check_segment(fd, size)
        except errors.ProtocolError as error: assert "changed its user" in str(error)
        else: raise AssertionError
        """,
        ZERROW_HUGE_PAGES="auto",
    )


def test_a_put_that_does_not_fit_says_so_and_leaves_nothing(name):
    small = Supervisor(name, budget=1 << 20, watch_pid=os.getpid())
    small.start()
    client = zerrow_store.connect(name)
    before = pinned()
    kept = client.put(table(10_000))
    with pytest.raises(zerrow_store.StoreFullError) as caught:
        client.put(table(1_000_000))
    assert (caught.value.needed, caught.value.used) == (16_000_000, 160_000)
    assert caught.value.budget == 1 << 20
    assert client.get(kept).equals(table(10_000))
    client.delete(kept)
    eventually(lambda: pinned() == before, "all is unpinned", seconds=20)
    client.close()
    small.stop()


def test_a_view_alone_keeps_the_bytes(client):
    before = pinned()
    object_id = client.put(table())
    view = client.get(object_id)["x"].chunk(0).slice(10, 5).to_numpy()
    client.delete(object_id)
    assert client.stats().bytes_stored == table().nbytes
    np.testing.assert_array_equal(view, np.arange(10, 15))
    del view
    gc.collect()
    eventually(lambda: client.stats().bytes_stored == 0, "the bytes are freed", seconds=20)
    eventually(lambda: pinned() == before, "all is unpinned", seconds=20)


def test_resharing_one_column_keeps_just_that_column(client):
    whole = client.put(table())
    part = client.put(client.get(whole).select(["x"]))
    assert client.stats().bytes_stored == table().nbytes
    client.delete(whole)
    gc.collect()
    eventually(
        lambda: client.stats().bytes_stored == table()["x"].nbytes, "one column is left", seconds=20
    )
    assert client.get(part)["x"].equals(table()["x"])


def test_putting_twice_stores_once_and_frees_once(client):
    before = pinned()
    data = table()
    first, second = client.put(data), client.put(data)
    assert client.stats().bytes_stored == data.nbytes
    client.delete(first)
    assert client.get(second).equals(data)
    third = client.put(data)
    client.delete([second, third])
    gc.collect()
    eventually(lambda: pinned() == before, "all is unpinned", seconds=20)
    assert client.get(client.put(data)).equals(data)


def test_transient_and_owned_objects(client, name):
    encoded = _native.encode(table())
    hold = client.publish_transient(b"transient", encoded)
    view = client.decode(encoded.message, hold, {})
    del hold
    assert view.equals(table())
    assert client.stats().objects == 1
    del view
    eventually(lambda: client.stats().objects == 0, "the transient object is gone", seconds=20)
    child = os.fork()
    if child == 0:
        mine = _native.encode(table())
        client.publish(b"owned", mine, mine.message, owned=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    eventually(
        lambda: client.stats().bytes_stored == 0,
        "the owned object went with its process",
        seconds=20,
    )


def test_a_forked_child_has_a_connection_of_its_own(client):
    held = client.put(table())
    child = os.fork()
    if child == 0:
        good = client.get(held).equals(table())
        client.put(table(start=9), object_id=b"of the child")
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.get(b"of the child").equals(table(start=9))
    assert client.get(held).equals(table())


def test_threads_share_a_client(client):
    wrong: list[int] = []

    def work(number: int) -> None:
        for i in range(30):
            start = number * 1000 + i
            object_id = client.put(table(5_000, start))
            if not client.get(object_id).equals(table(5_000, start)):
                wrong.append(start)
            client.delete(object_id)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    gc.collect()
    eventually(lambda: client.stats().bytes_stored == 0, "all is freed", seconds=20)


def test_thousands_of_objects_leave_nothing(client):
    def usage():
        maps = Path("/proc/self/maps").read_text().count("\n")
        server = client.stats().pid
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{server}/fd")), maps

    def cycle(count: int) -> None:
        for i in range(count):
            object_id = client.put(table(2_000, i))
            client.get(object_id)
            client.delete(object_id)

    eventually(lambda: client.stats().supervisors == 2, "both supervisors are there", seconds=20)
    cycle(100)
    gc.collect()
    before, pins = usage(), pinned()
    cycle(3_000)
    gc.collect()
    eventually(lambda: client.stats().bytes_stored == 0, "all is freed", seconds=20)
    eventually(lambda: pinned() <= pins, "all is unpinned", seconds=20)
    own, servers, maps = usage()
    # Something of earlier tests may have been on its way out before.
    assert own <= before[0]
    assert servers <= before[1]
    assert maps <= before[2] + 20


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=arrow_strategies.tables())
def test_all_arrow_types(client, data):
    object_id = client.put(data)
    got = client.get(object_id)
    got.validate(full=True)
    assert got.equals(data)
    assert got.schema.equals(data.schema, check_metadata=True)
    client.delete(object_id)


def test_a_transient_object_is_held_whose_answer_was_lost(client, monkeypatch):
    """The store ended after the object was entered, and was asked again."""
    send = Connection.send
    kept = client.publish_transient(b"transient", _native.encode(table()))

    def sent_again(self, request):
        request.resent = True
        return send(self, request)

    monkeypatch.setattr(Connection, "send", sent_again)
    again = client.publish_transient(b"transient", _native.encode(table()))
    del kept
    eventually(lambda: client.list()[0].holds == 1, "the first hold is gone", seconds=20)
    del again
    eventually(lambda: client.stats().objects == 0, "the object is gone", seconds=20)
