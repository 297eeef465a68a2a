"""Forks while a lock is held: the child is never stuck."""

import os
import random
import re
import signal
import threading
from pathlib import Path

import zerrow_store
from tests.helpers.stores import Store
from zerrow_store import forks

PACKAGE = Path(zerrow_store.__file__).parent

HOLDING_EACH = """
import importlib, pkgutil, signal, threading, zerrow_store
from zerrow_store import forks
for module in pkgutil.walk_packages(zerrow_store.__path__, 'zerrow_store.'):
    if not module.name.endswith(('_build_info', 'child', 'zygote')):
        importlib.import_module(module.name)
from zerrow_store.sandbox import pool
import pyarrow.parquet as pq

def work():
    assert client.get(object_id).num_rows == 5000
    client.delete(client.put(pa.table({'y': pc.add(pa.array(range(5000)), 2)})))
    client.decode_cache.release(b'token')
    assert zerrow_store.read_parquet(path, client=client).num_rows == 10
    pool.close()
    client.close()

def child(lock):
    signal.alarm(30)
    try:
        for each in list(forks._locks):
            with each:
                pass
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def fork_while_held(lock):
    held, done = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            done.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        child(lock)
    # Others are not to wait for it meanwhile: the child is over before the lock is let go.
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    done.set()
    thread.join()
    return status
"""


def test_a_fork_while_each_lock_is_held(store: Store, tmp_path: Path) -> None:
    worker = store.worker()
    worker.do(HOLDING_EACH)
    worker.do(f"""
        path = {str(tmp_path / "f.parquet")!r}
        pq.write_table(pa.table({{'x': range(10)}}), path)
        object_id = client.put(pa.table({{'x': pc.add(pa.array(range(5000)), 1)}}))
        zerrow_store.read_parquet(path, client=client).num_rows
    """)
    outcomes = worker.do("[fork_while_held(lock) for lock in list(forks._locks)]")
    assert len(outcomes) >= 12
    assert set(outcomes) == {0}
    assert worker.do("client.get(object_id).num_rows") == 5000


def test_all_locks_of_the_package_are_renewed_at_forks() -> None:
    lock = re.compile(r"threading\.(R?Lock|Condition|(Bounded)?Semaphore)\(")
    # What runs in the transfer agent's process alone, which does not fork.
    names = ["followers", "neighbour", "neighbours", "receiver", "sender", "tracker"]
    agents = {PACKAGE / "transfer" / f"{name}.py" for name in names}
    files = [p for p in PACKAGE.rglob("*.py") if p not in {PACKAGE / "forks.py", *agents}]
    assert [path.name for path in files if lock.search(path.read_text())] == []
    handler = re.compile(r"register_at_fork")
    assert [path.name for path in files if handler.search(path.read_text())] == []


def test_a_thread_that_forks_keeps_its_own_lock() -> None:
    lock = forks.Lock()
    with lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            taken = threading.Event()

            def take() -> None:
                with lock:
                    taken.set()

            threading.Thread(target=take, daemon=True).start()
            held = not taken.wait(0.2)
            lock.__exit__()
            os._exit(0 if held and taken.wait(5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_interrupt_leaves_a_lock_taken() -> None:
    """As control-C, or Ray's cancellation, at any moment."""
    lock = forks.Lock()
    interrupted = 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def is_free() -> bool:
        free = threading.Event()

        def take() -> None:
            with lock:
                free.set()

        threading.Thread(target=take, daemon=True).start()
        return free.wait(20)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while interrupted < 2000:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-4))
                while True:
                    with lock:
                        pass
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert is_free()
