"""A store that is away: for a moment, for long, or for good; and threads that have to go on."""

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.data import table
from tests.helpers.processes import alive, kill
from tests.helpers.python import Worker
from tests.helpers.stores import Away, Store, both_supervisors, servers_of, supervisors_of
from tests.helpers.waiting import wait_until
from zerrow_store import Client, ObjectNotFoundError, StoreUnavailableError, connect, threads
from zerrow_store.client import connection
from zerrow_store.server.supervisor import Supervisor


def answers(client: Client) -> bool:
    try:
        client.stats()
    except StoreUnavailableError:
        return False
    return True


def test_who_comes_while_the_store_is_started_again_waits_for_it(standalone: str) -> None:
    client = connect(standalone)
    object_id = client.put(table())
    view = client.get(object_id)
    away = Away(standalone)
    with ThreadPoolExecutor() as pool:
        known = pool.submit(client.get, object_id)
        new = pool.submit(lambda: Client(standalone).get(object_id))
        time.sleep(1.0)
        assert not known.done()
        assert not new.done()
        away.back()
        assert known.result().equals(table())
        assert new.result().equals(table())
    assert view.equals(table())
    client.close()


def test_a_store_that_was_away_for_long_is_found_again(
    standalone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PATIENCE_SECONDS", 0.3)
    client = connect(standalone)
    kept, unwanted = client.put(table()), client.put(table(start=7))
    view = client.get(kept)
    away = Away(standalone)
    for call in (lambda: client.get(kept), client.stats, lambda: client.delete(unwanted)):
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            call()
    assert not client.closed
    away.back()
    wait_until(lambda: answers(client))
    assert [(info.object_id, info.holds) for info in client.list()] == [(kept, 1)]
    assert view.equals(client.get(kept))
    assert client.get(client.put(table(start=3))).equals(table(start=3))
    client.close()


def test_nobody_is_told_that_a_store_is_away_before_it_was_started_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PATIENCE_SECONDS", 0.3)
    first = Store(name, budget=1 << 28)
    started: list[Store] = []
    client = Client(name, missed=lambda: started.append(Store(name, budget=1 << 28)))
    first.stop()
    try:
        assert client.stats().objects == 0
        assert len(started) == 1
    finally:
        client.close()
        for store in started:
            store.stop()


def test_a_request_to_a_store_that_is_gone_waits_for_one_attempt(
    standalone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for the whole patience once more, after which the store is missed again."""
    monkeypatch.setattr(connection, "_PATIENCE_SECONDS", 3.0)
    missed: list[None] = []
    client = Client(standalone, missed=lambda: missed.append(None))
    Away(standalone).for_good()
    for _ in range(4):
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            client.stats()
    client.close()
    assert 1 <= len(missed) < 4


def test_a_client_outlives_its_store(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PATIENCE_SECONDS", 0.3)
    views = []
    supervisor = Supervisor(name, budget=1 << 30, watch_pid=os.getpid())
    supervisor.start()
    client = connect(name)
    for start in range(3):
        object_id = client.put(table(start=start))
        views.append(client.get(object_id))
        assert [info.holds for info in client.list()] == [1]
        supervisor.stop()
        with pytest.raises(StoreUnavailableError):
            client.get(object_id)
        supervisor = Supervisor(name, budget=1 << 30, watch_pid=os.getpid())
        supervisor.start()
        wait_until(lambda: answers(client))
    supervisor.stop()
    assert [view.equals(table(start=start)) for start, view in enumerate(views)] == [True] * 3
    client.close()


BegunAnew = tuple[Worker, Worker, bytes]


@pytest.fixture
def begun_anew(standalone: str) -> Iterator[BegunAnew]:
    """A store that knows nothing any more of an object of a producer, which a reader has as `view`.

    Both are connected to it as `client`; `make` of the producer makes tables.
    """
    producer, reader = Worker(), Worker()
    for worker in (producer, reader):
        worker.do(f"""
            import gc
            import pyarrow as pa, pyarrow.compute as pc
            import zerrow_store
            client = zerrow_store.connect({standalone!r})
        """)
    object_id = producer.do("""
        def make(i):
            return pa.table({'x': pc.add(pa.array(range(200_000)), i)})
        client.put(make(1))
    """)
    reader.do(f"view = client.get({object_id!r})")
    Away(standalone).for_good()
    again = Supervisor(standalone, budget=1 << 30, watch_pid=os.getpid())
    again.start()
    yield producer, reader, object_id
    for worker in (producer, reader):
        worker.kill()
    again.stop()


def test_views_stay_right_when_the_store_begins_anew(
    standalone: str, begun_anew: BegunAnew
) -> None:
    """Server and supervisor die at once, and what they knew: not what somebody reads."""
    producer, reader, object_id = begun_anew
    producer.do("for i in range(20): client.delete(client.put(make(i)))")
    reader.do("client.stats().pid")
    assert reader.do("pc.sum(view['x']).as_py()") == sum(range(200_000)) + 200_000
    with pytest.raises(AssertionError, match=ObjectNotFoundError.__name__):
        reader.do(f"client.get({object_id!r})")
    # A hold of what is lost is no hold of what bears the same name now.
    producer.do(f"client.put(make(2), object_id={object_id!r})")
    reader.do(f"new = client.get({object_id!r})\ndel view\ngc.collect()")
    client = Client(standalone)
    time.sleep(0.2)
    assert [info.holds for info in client.list()] == [1]
    client.close()


def test_views_stay_right_when_their_producer_ends_after_that(
    standalone: str, begun_anew: BegunAnew
) -> None:
    """A store that has begun anew gives back what it knows to be free: not what it never knew."""
    producer, reader, object_id = begun_anew
    producer.do("kept = client.put(make(2))")
    client = Client(standalone)
    producer.kill()
    client.delete(producer_object := client.list()[0].object_id)
    assert producer_object != object_id
    wait_until(lambda: client.stats().segments == 0)
    assert reader.do("pc.sum(view['x']).as_py()") == sum(range(200_000)) + 200_000
    client.close()


def test_a_supervisor_that_cannot_start_a_server_tries_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store.connected()
    object_id = client.put(table())
    failures: list[Exception] = [OSError(errno.EMFILE, "Too many open files")] * 3
    failures.append(RuntimeError("unforeseen"))
    spawn = Supervisor._spawn

    def fail_at_first(self: Supervisor, claimed: Any) -> Any:
        if failures:
            raise failures.pop()
        return spawn(self, claimed)

    monkeypatch.setattr(Supervisor, "_spawn", fail_at_first)
    wait_until(store.is_complete)
    others = supervisors_of(store.name)
    for pid in others:  # which would be quicker, now and then
        os.kill(pid, signal.SIGSTOP)
    kill(store.server_pid())
    assert client.get(object_id).equals(table())
    assert failures == []
    for pid in others:
        os.kill(pid, signal.SIGCONT)


def test_a_supervisor_tries_no_more_when_the_watched_process_has_ended(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def fail(self: Supervisor, claimed: Any) -> Any:
        tried.set()
        raise OSError(errno.EMFILE, "Too many open files")

    watched = subprocess.Popen(["sleep", "1000"])
    supervisor = Supervisor(name, budget=1 << 30, watch_pid=watched.pid)
    supervisor.start()
    client = Client(name)
    wait_until(lambda: client.stats().supervisors == 2)
    client.close()
    others = supervisors_of(name)
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(Supervisor, "_spawn", fail)
    kill(servers_of(name)[0])
    assert tried.wait(60)
    watched.kill()
    watched.wait()
    supervisor.wait()
    for pid in others:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not any(map(alive, others)))


def test_a_server_that_cannot_start_a_supervisor_tries_again(standalone: str) -> None:
    client = Client(standalone)
    server, before = client.stats().pid, both_supervisors(standalone)
    limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (3, limits[1]))  # no more of them
    for pid in before:
        kill(pid)
    wait_until(lambda: not client.stats().supervisors)
    time.sleep(1.5)
    assert {*supervisors_of(standalone)} <= {*before}
    resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: client.stats().supervisors == 2)
    assert client.stats().pid == server
    assert alive(server)
    client.close()


def test_a_supervisor_that_is_killed_amid_taking_over_loses_nothing(standalone: str) -> None:
    client = connect(standalone)
    object_id = client.put(table())
    server = client.stats().pid
    code = """
import os, signal, sys
from zerrow_store.server import supervisor
receive = supervisor.Supervisor._receive
def die_amid_the_books(self, frame):
    receive(self, frame)
    if frame.kind == "object_added":
        os.kill(os.getpid(), signal.SIGKILL)
supervisor.Supervisor._receive = die_amid_the_books
supervisor.Supervisor(sys.argv[1], budget=1 << 30).start()
"""
    done = subprocess.run([sys.executable, "-c", code, standalone], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert client.stats().supervisors
    kill(server)
    assert client.get(object_id).equals(table())
    client.close()


def test_a_thread_that_matters_begins_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "_PAUSE_SECONDS", 0.0)
    done = threading.Event()
    failures = [KeyError("one"), OSError("two")]

    def work(what: str) -> None:
        assert what == "argument"
        if failures:
            raise failures.pop()
        done.set()

    thread = threads.start(work, "argument", name="worker")
    assert done.wait(10)
    thread.join()
    assert [record.getMessage() for record in caplog.records] == [
        "the thread worker begins anew"
    ] * 2


def test_releases_go_on_after_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PAUSE_SECONDS", 0.0)
    client = store.connected()
    object_id = client.put(pa.table({"x": pc.add(pa.array(range(5000)), 1)}))
    segments, failures = client._session.segments, [RuntimeError("unforeseen")]
    tidy = segments.tidy

    def fail_once() -> None:
        if failures:
            raise failures.pop()
        tidy()

    monkeypatch.setattr(segments, "tidy", fail_once)
    for _ in range(3):
        view = client.get(object_id)
        assert client.list()[0].holds == 1
        del view
        gc.collect()
        wait_until(lambda: client.list()[0].holds == 0)
    assert failures == []


def test_a_supervisor_that_missed_a_server_does_not_start_the_next_one(standalone: str) -> None:
    """What was put meanwhile is known to the other one, however long that takes to act."""
    client = Client(standalone)
    kept = [client.put(table())]
    ahead, behind = both_supervisors(standalone)
    os.kill(behind, signal.SIGSTOP)
    kill(client.stats().pid)
    kept.append(client.put(table()))
    wait_until(lambda: client.stats().supervisors == 1)
    os.kill(ahead, signal.SIGSTOP)
    kill(servers_of(standalone)[0])
    os.kill(behind, signal.SIGCONT)
    time.sleep(6.0)
    os.kill(ahead, signal.SIGCONT)
    for object_id in kept:
        assert client.get(object_id).equals(table())
    client.close()


def test_a_supervisor_that_missed_a_server_starts_the_next_one_if_it_is_the_last(
    standalone: str,
) -> None:
    client = Client(standalone)
    kept = client.put(table())
    ahead, behind = both_supervisors(standalone)
    os.kill(behind, signal.SIGSTOP)
    kill(client.stats().pid)
    client.put(table())
    wait_until(lambda: client.stats().supervisors == 1)
    os.kill(ahead, signal.SIGKILL)
    kill(client.stats().pid)
    os.kill(behind, signal.SIGCONT)
    assert client.get(kept).equals(table())
    client.close()


@pytest.mark.parametrize("generations", [1, 2])
def test_a_store_that_was_ended_is_not_started_again_by_a_supervisor_that_missed_it(
    standalone: str, generations: int
) -> None:
    client = Client(standalone)
    client.put(table())
    _, behind = both_supervisors(standalone)
    os.kill(behind, signal.SIGSTOP)
    for _ in range(generations):
        kill(client.stats().pid)
        wait_until(lambda: client.stats().supervisors == 1)
    client.shutdown()
    client.close()
    wait_until(lambda: not servers_of(standalone))
    os.kill(behind, signal.SIGCONT)
    wait_until(lambda: not alive(behind))
    assert servers_of(standalone) == []
