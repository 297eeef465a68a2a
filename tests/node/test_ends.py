"""Kills at bad moments, and ends that are meant: nothing is lost, and nothing is left behind."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.processes import alive, kill, memory_files, processes
from tests.helpers.stores import Store, both_supervisors, is_there, supervisors_of
from tests.helpers.waiting import wait_until
from zerrow_store import Client, connect
from zerrow_store.server.supervisor import Supervisor

ROWS = 2_000_000
MAKE = f"table = pa.table({{'x': pc.add(pa.array([1]).take(pa.array([0] * {ROWS})), 1)}})"
SIZE = ROWS * 8


def test_a_dead_producers_segment_is_unmapped_by_its_readers(store: Store) -> None:
    producer, reader = store.worker(), store.worker()
    object_id = producer.do(f"{MAKE}\nclient.put(table)")
    segment = producer.do("from zerrow_store.native import _native\n_native.arena_segment()[0]")
    reader.do(f"from zerrow_store.native import _native\nview = client.get({object_id!r})['x']")
    producer.kill()
    store.connect().delete(object_id)
    assert reader.do("pc.sum(view).as_py()") == 2 * ROWS
    assert reader.do(f"{segment!r} in _native.mapped_segments()") is True
    reader.do("del view; gc.collect()")
    wait_until(lambda: reader.do(f"{segment!r} in _native.mapped_segments()") is False)


def test_a_producer_killed_amid_puts_leaves_whole_objects(store: Store) -> None:
    client = store.connect()
    for after in (1, 7, 20):
        producer = store.worker()
        known = {info.object_id for info in client.list()}
        producer.do("""
            import threading
            def work():
                for i in range(1_000_000):
                    client.put(pa.table({'x': pc.add(pa.array(range(5000)), i)}))
            threading.Thread(target=work, daemon=True).start()
        """)
        wait_until(lambda known=known, after=after: len(client.list()) >= len(known) + after)
        producer.kill()
        for info in client.list():
            column = client.get(info.object_id)["x"]
            assert pc.subtract(column, column[0]).to_pylist() == list(range(5000))
    client.delete([info.object_id for info in client.list()])
    del column
    gc.collect()
    wait_until(lambda: memory_files(store.server_pid()) == [])


def test_what_was_deleted_before_a_crash_stays_for_its_reader(store: Store) -> None:
    client = store.connect()
    object_id = client.put(pa.table({"x": pc.add(pa.array(range(5000)), 1)}))
    expected = sum(range(5000)) + 5000
    reader = store.worker()
    reader.do(f"view = client.get({object_id!r})")
    client.delete(object_id)
    for _ in range(2):
        kill(store.server_pid())
        client.stats()
    # Longer than the grace for readers to come back: this one did.
    reader.do("client.stats().pid")
    reader.do("import time; time.sleep(12)")
    assert client.stats().bytes_stored > 0
    assert reader.do("pc.sum(view['x']).as_py()") == expected
    reader.do("del view; gc.collect()")
    wait_until(lambda: client.stats().bytes_stored == 0)


def test_puts_go_on_while_the_server_is_killed_again_and_again(store: Store) -> None:
    client = store.connect()
    worker = store.worker()
    worker.do("""
        import threading
        done, failed = [], []
        stop = threading.Event()
        def work(n):
            i = 0
            while not stop.is_set():
                i += 1
                try:
                    table = pa.table({'x': pc.add(pa.array(range(2000)), n * 1000 + i)})
                    object_id = client.put(table)
                    assert client.get(object_id).equals(table)
                    client.delete(object_id)
                    done.append(1)
                except BaseException as error:
                    failed.append(repr(error))
                    break
        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads: thread.start()
    """)
    for _ in range(8):
        count = worker.do("len(done)")
        wait_until(lambda count=count: worker.do(f"len(done) > {count + 20} or failed"))
        kill(store.server_pid())
        wait_until(store.remains)
    worker.do("stop.set()\nfor thread in threads: thread.join()")
    assert worker.do("failed") == []
    wait_until(lambda: client.stats().bytes_stored == 0)
    code = "from zerrow_store.native import _native\ngc.collect()\n_native.arena_stats()['pinned']"
    wait_until(lambda: worker.do(code) == 0)


def test_a_server_starts_new_supervisors_which_can_start_a_new_server(standalone: str) -> None:
    client = connect(standalone)
    object_id = client.put(pa.table({"x": pc.add(pa.array(range(5000)), 1)}))
    for _ in range(2):
        server, before = client.stats().pid, both_supervisors(standalone)
        for pid in before:
            kill(pid)
        assert not {*both_supervisors(standalone)} & {*before}
        assert client.stats().pid == server
        kill(server)
        assert client.stats().pid != server
        assert client.get(object_id)["x"][4999].as_py() == 5000
    client.close()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("order", ["the server first", "the supervisor first"])
def test_a_server_and_a_supervisor_that_are_killed_at_once_lose_nothing(
    standalone: str, which: int, order: str
) -> None:
    client = connect(standalone)
    object_id = client.put(pa.table({"x": pc.add(pa.array(range(5000)), 1)}))
    for _ in range(3):
        supervisor, server = both_supervisors(standalone)[which], client.stats().pid
        os.kill(supervisor, signal.SIGSTOP)  # it must not see the server's end
        pair = [server, supervisor] if order == "the server first" else [supervisor, server]
        for pid in pair:
            kill(pid)
        assert client.get(object_id)["x"][4999].as_py() == 5000
        assert client.stats().pid != server
    assert Client(standalone).stats().objects == 1
    client.close()


def test_all_killed_at_once_is_the_end(standalone: str) -> None:
    pids = [Client(standalone).stats().pid, *both_supervisors(standalone)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # it must not see the others' end
    for pid in pids:
        kill(pid)
    assert not is_there(standalone)


def test_a_supervisor_that_was_left_behind_starts_no_server(standalone: str) -> None:
    client = connect(standalone)
    hanging, _ = both_supervisors(standalone)
    os.kill(hanging, signal.SIGSTOP)
    table = pa.table({"x": pc.add(pa.array(range(5000)), 1)})
    wait_until(
        lambda: client.delete(client.put(table)) or supervisors_without(standalone, hanging) == 2
    )
    object_id = client.put(table)
    os.kill(hanging, signal.SIGCONT)
    for _ in range(3):
        kill(client.stats().pid)
        assert client.get(object_id).equals(table)
    client.close()


def supervisors_without(name: str, pid: int) -> int:
    return len([each for each in supervisors_of(name) if each != pid])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(standalone: str, number: int) -> None:
    client = Client(standalone)
    server = client.stats().pid
    os.kill(server, number)
    if number == signal.SIGTERM:
        # Meant: the supervisor ends as well.
        wait_until(lambda: not processes("--name", standalone))
    else:
        assert client.stats().pid == server
    client.close()


def test_a_store_ends_with_the_process_it_watches() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    watched = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    code = f"""
import time
from zerrow_store.server.supervisor import Supervisor
supervisor = Supervisor({name!r}, budget=1 << 20, watch_pid={watched.pid})
supervisor.start()
print("started", flush=True)
supervisor.wait()
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "started\n"
    (server,) = processes("zerrow_store.server.server", name)
    watched.kill()
    watched.wait()
    wait_until(lambda: not alive(server))
    assert supervisor.wait() == 0
    supervisor.stdout.close()
    assert watched.stdin is not None
    watched.stdin.close()
    assert not processes("--name", name)


def test_two_supervisors_do_not_fight(standalone: str) -> None:
    client = Client(standalone)
    server = client.stats().pid
    newcomer = Supervisor(standalone, budget=1 << 30, watch_pid=os.getpid())
    newcomer.start()
    # What the server has started itself lets go, and the store goes on.
    wait_until(lambda: len(supervisors_of(standalone)) == 1)
    wait_until(lambda: client.stats().supervisors == 2)
    for _ in range(3):
        assert client.stats().pid == server
        kill(server)
        wait_until(lambda: client.stats().supervisors == 2)
        server = client.stats().pid
    client.close()
    newcomer.stop()


def test_a_supervisor_that_was_left_behind_starts_no_store_that_was_ended(standalone: str) -> None:
    supervisor, _ = both_supervisors(standalone)
    client = connect(standalone)
    os.kill(supervisor, signal.SIGSTOP)
    table = pa.table({"x": pc.add(pa.array(range(5000)), 1)})
    while supervisors_without(standalone, supervisor) < 2:
        client.delete(client.put(table))
    client.shutdown()
    client.close()
    wait_until(lambda: processes("--name", standalone) == [supervisor])
    os.kill(supervisor, signal.SIGCONT)
    wait_until(lambda: not processes("--name", standalone))


def test_a_supervisor_that_hangs_does_not_stop_the_store(standalone: str) -> None:
    supervisor, _ = both_supervisors(standalone)
    client = connect(standalone)
    os.kill(supervisor, signal.SIGSTOP)
    table = pa.table({"x": pc.add(pa.array(range(5000)), 1)})
    for _ in range(3000):
        client.delete(client.put(table))
    assert client.get(client.put(table)).equals(table)
    os.kill(supervisor, signal.SIGCONT)
    client.close()


_DAEMON = """
import os, time
mine = pa.table({"x": pc.add(pa.array(range(ROWS)), 0), "s": ["ab"] * ROWS})
array = np.arange(ROWS)
other = client.put(pa.table({"y": pc.add(pa.array(range(ROWS)), 1)}))
report, reported = os.pipe()
parent = os.getpid()
if os.fork() == 0:
    os.setsid()
    if CLOSES:
        os.dup2(reported, 3)
        os.closerange(4, 4096)
        reported = 3
    while os.getppid() == parent:
        time.sleep(0.01)
    os.read(0, 1)  # the test has seen what the store does about its parent's end
    good = mine["x"].to_pylist() == list(range(ROWS)) and set(mine["s"].to_pylist()) == {"ab"}
    good = good and (array == np.arange(ROWS)).all()
    print("as it was" if good else "changed", flush=True)
    os._exit(0)
print(other.hex(), _native.arena_segment()[0].hex(), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("closes", [False, True], ids=["plain", "closes all descriptors"])
def test_a_daemon_keeps_what_it_inherited_from_a_process_that_has_ended(
    store: Store, closes: bool
) -> None:
    code = f"""
    import numpy as np, pyarrow as pa, pyarrow.compute as pc, zerrow_store
    from zerrow_store.native import _native
    ROWS, CLOSES = 300_000, {closes}
    client = zerrow_store.connect({store.name!r})
    """
    code = textwrap.dedent(code) + _DAEMON
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        object_id, segment = map(bytes.fromhex, parent.stdout.readline().decode().split())
        parent.wait()
        client = store.connected()
        held = {row.segment for row in client.memory_by_segment()}
        assert client.get(object_id)["y"][0].as_py() == 1
        client.delete(object_id)
        time.sleep(2.5)  # the store looks once a second; nothing in the test hangs on it
        parent.stdin.write(b"x")
        parent.stdin.close()
        assert parent.stdout.read() == b"as it was\n"
    assert segment in held
    wait_until(lambda: client.stats().segments == 0)
