"""Clients of one store in one process: threads, several clients, forks, and what they map."""

import gc
import weakref
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.processes import alive, kill
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectNotFoundError
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


def test_the_first_puts_of_many_threads_find_the_segment_attached(store: Store) -> None:
    for _ in range(5):
        worker = store.worker()
        assert (
            worker.do("""
                import threading
                start, ids = threading.Barrier(16), []
                def work(i):
                    table = pa.table({'x': pc.add(pa.array(range(5000)), i)})
                    start.wait()
                    ids.append(client.put(table))
                threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                len(ids)
            """)
            == 16
        )
        worker.kill()


def test_an_interrupted_put_leaves_nothing(store: Store) -> None:
    worker = store.worker()
    server = store.server_pid()
    worker.do(f"""
        import signal, threading, time
        from zerrow_store.native import _native
        signal.signal(signal.SIGINT, signal.default_int_handler)
        table = pa.table({{'x': pc.add(pa.array(range(5000)), 1)}})
        client.delete(client.put(pa.table({{'y': pc.add(pa.array(range(5000)), 3)}})))
        os.kill({server}, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            client.put(table)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        os.kill({server}, signal.SIGCONT)
    """)
    assert worker.do("interrupted") is True
    client = store.connect()
    wait_until(lambda: client.stats().bytes_shared == 80_000)
    wait_until(lambda: client.stats().bytes_stored == 0)
    wait_until(lambda: worker.do("_native.arena_stats()['pinned']") == 0)
    assert worker.do("client.get(client.put(table)).equals(table)") is True


def test_a_large_message_reaches_its_reader(store: Store) -> None:
    client = store.connect()
    # Small values lie in the message itself: this one is larger than what may stay unread.
    encoded = _native.encode(numbers())
    client.publish(b"large", encoded, b"m" * (100 << 20))
    reader = store.worker()
    reader.do("from zerrow_store.protocol import messages")
    assert reader.do("len(client._connection.request(messages.Get(b'large')).message)") == 100 << 20
    # And its object table can be handed over.
    kill(store.server_pid())
    assert client.stats().objects == 1


def test_what_is_published_to_two_stores_outlives_either(store: Store) -> None:
    other = Store(f"{store.name}-other", budget=1 << 30)
    producer = store.worker()
    one, two = producer.do(f"""
        second = zerrow_store.connect({other.name!r})
        first_table = pa.table({{'x': pc.add(pa.array(range(5000)), 1)}})
        second_table = pa.table({{'x': pc.add(pa.array(range(5000)), 2)}})
        client.put(first_table), second.put(second_table)
    """)
    producer.kill()
    first, second = store.connect(), other.connect()
    server = store.server_pid()
    wait_until(lambda: first.stats().clients == 1 and second.stats().clients == 1)
    assert alive(server)
    assert first.get(one)["x"][4999].as_py() == 5000
    assert second.get(two)["x"][4999].as_py() == 5001
    other.stop()


def test_a_forked_child_keeps_the_views_it_inherits(store: Store) -> None:
    client = store.connect()
    object_id = client.put(numbers())
    expected = pc.sum(numbers()["n"]).as_py()
    worker = store.worker()
    child = worker.do(f"""
        view = client.get({object_id!r})['n']
        reading, writing = os.pipe()
        answer_reading, answer_writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os.write(answer_writing, str(pc.sum(view).as_py()).encode())
            os.read(reading, 1)
            os._exit(0)
        child
    """)
    client.delete(object_id)
    worker.do("del view; gc.collect(); client.stats().pid")
    assert client.stats().bytes_stored > 0
    churn = [pc.add(numbers()["n"], 7) for _ in range(20)]
    assert worker.do("os.write(writing, b'!')\nint(os.read(answer_reading, 100))") == expected
    del churn
    worker.do("os.write(writing, b'!')\nos.waitpid(child, 0)[1]")
    assert not alive(child)
    wait_until(lambda: client.stats().bytes_stored == 0)


def test_an_error_keeps_nothing_alive(store: Store) -> None:
    """Its frames are not part of a cycle: what callers have goes when they return."""
    client = store.connect()

    def failing() -> "weakref.ref[pa.Table]":
        table = numbers()
        try:
            client.get(b"missing")
        except ObjectNotFoundError:
            return weakref.ref(table)
        raise AssertionError("it was found")

    gc.disable()  # what is left is seen before cycles are collected
    try:
        assert failing()() is None
    finally:
        gc.enable()
