"""Eviction in a running store: each policy, what is recorded, and disks and processes that fail.

The file is long because each way of eviction meets each state of an object.
"""

import contextlib
import gc
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import policies
from tests.helpers.processes import kill, spilled_files
from tests.helpers.python import Worker
from tests.helpers.small_store import BUDGET, NBYTES, make
from tests.helpers.stores import Store, supervisors_of
from tests.helpers.waiting import eventually, wait_until
from zerrow_store.client.client import Client
from zerrow_store.decache import read_parquet
from zerrow_store.errors import ObjectLostError, StoreFullError
from zerrow_store.native import _native
from zerrow_store.protocol.sockets import running_stores

Make = Callable[[str], Store]


@pytest.fixture
def store(disk: Path) -> Iterator[Make]:
    """Makes a store with room for eight tables, under a policy."""
    with contextlib.ExitStack() as stack:

        def start(eviction: str = "adaptive") -> Store:
            made = Store(f"evict-{os.urandom(4).hex()}", budget=BUDGET, eviction=eviction)
            stack.callback(made.stop)
            return made

        yield start


def write_file(path: Path) -> pa.Table:
    """A file of four columns of 8 MB each. The table that is returned lies outside of the arena:
    beside its columns in the cache it would fill the store, which would drop some of these.
    """
    table = pa.table({f"c{i}": make(i)["x"] for i in range(4)})
    pq.write_table(table, path)
    sink = pa.BufferOutputStream(pa.system_memory_pool())
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def warm(store: Store, path: Path) -> None:
    """Have the file's columns in the cache, with nobody reading them."""
    client = store.connected()
    read_parquet(path, client=client)
    gc.collect()
    wait_until(lambda: [e.readers for e in client.cache_list()] == [0] * 4)


def fill(store: Store, count: int) -> list[bytes]:
    client = store.connected()
    return [client.put(make(n)) for n in range(count)]


def ways(store: Store) -> set[str]:
    return {record.way for record in store.connected().evictions()}


def test_swap_spills_also_what_could_be_decoded_again(store: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    table = write_file(path)
    swap = store("swap")
    warm(swap, path)
    ids = fill(swap, 16)
    client = swap.connected()
    assert ways(swap) == {"spill"}
    assert len(client.cache_list()) == 4
    before = {entry.column: entry.hits for entry in client.cache_list()}
    assert read_parquet(path, client=client).equals(table)
    assert {e.column: e.hits for e in client.cache_list()} == {c: h + 1 for c, h in before.items()}
    assert all(client.get(object_id).equals(make(n)) for n, object_id in enumerate(ids))


def test_rollback_drops_what_can_be_decoded_before_the_disk_is_used(
    store: Make, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    table = write_file(path)
    rollback = store("rollback")
    warm(rollback, path)
    fill(rollback, 16)
    client = rollback.connected()
    assert client.stats().bytes_spilled > 0
    first = [record.way for record in client.evictions()][:5]
    assert first == ["drop"] * 4 + ["spill"]
    assert read_parquet(path, client=client).equals(table)


def test_lru_evicts_the_longest_idle_of_all(store: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path)
    lru = store("lru")
    (old,) = fill(lru, 1)
    warm(lru, path)
    client = lru.connected()
    fresh = fill(lru, 3)
    wait_until(lambda: client.stats().bytes_spilled > 0)
    # On a busy machine memory is short for longer, and more may go: in this order.
    moved = [bool(client.hold(object_id).moved) for object_id in (old, *fresh)]
    assert moved[0]
    assert moved == sorted(moved, reverse=True)


def test_none_refuses_what_does_not_fit(store: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    table = write_file(path)
    keep = store("none")
    warm(keep, path)
    client = keep.connected()
    ids = fill(keep, 3)
    with pytest.raises(StoreFullError) as caught:
        client.put(make(9))
    assert (caught.value.needed, caught.value.budget) == (NBYTES, BUDGET)
    time.sleep(1.5)  # above the high watermark, and it stays so
    assert client.evictions() == ()
    assert len(client.cache_list()) == 4
    assert client.stats().eviction == "none"
    assert read_parquet(path, client=client).equals(table)
    assert all(client.get(object_id).equals(make(n)) for n, object_id in enumerate(ids))


def test_a_transient_object_is_held_from_the_beginning(store: Make) -> None:
    """Who put it may still write to it."""
    client = store("adaptive").connect()
    encoded = _native.encode(make(0))
    hold = client.publish_transient(b"transient", encoded)
    fits = BUDGET // NBYTES - 1
    for n in range(fits + 3):
        client.put(make(1 + n))
    assert client.stats().bytes_spilled > 0
    assert client.hold(b"transient").moved == {}
    del hold
    wait_until(lambda: all(each.object_id != b"transient" for each in client.list()))


def test_cost_and_outcome_are_recorded(store: Make) -> None:
    spilling = store()
    ids = fill(spilling, 32)
    client = spilling.connected()

    def recorded() -> bool:  # between the two questions the store may spill more
        return sum(each.nbytes for each in client.evictions()) == client.stats().bytes_spilled

    wait_until(recorded)
    records = client.evictions()
    assert records
    assert all(r.expected > 0 and r.seconds > 0 and not r.returned for r in records)
    written = {record.when: record.seconds for record in records}
    for object_id in ids:
        client.get(object_id)
    wait_until(lambda: any(record.returned for record in client.evictions()))
    returned = [r for r in client.evictions() if r.returned and r.when in written]
    assert returned
    assert all(record.seconds > written[record.when] for record in returned)


def test_what_decoding_again_took_is_recorded(store: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    table = write_file(path)
    rollback = store("rollback")
    warm(rollback, path)
    client = rollback.connected()
    took = {entry.column: entry.seconds for entry in client.cache_list()}
    fill(rollback, 7)
    dropped = [r for r in client.evictions() if r.way == "drop"]
    assert {r.name.rpartition(":")[2]: r.expected for r in dropped}.items() <= took.items()
    assert all((r.seconds, r.returned) == (0.0, False) for r in dropped)
    assert read_parquet(path, client=client).equals(table)
    again = {r.when: r for r in client.evictions()}
    assert all(again[r.when].returned and again[r.when].seconds > 0 for r in dropped)


def test_the_disks_speed_is_learned_with_decay(store: Make) -> None:
    spilling = store()
    client = spilling.connected()
    speed = client.stats().spill_bandwidth
    fill(spilling, 32)
    wait_until(lambda: client.stats().bytes_stored <= 0.9 * BUDGET)
    # Each job counts as much as all before it.
    for record in client.evictions():
        speed += (record.nbytes / record.seconds - speed) / 2
    assert client.stats().spill_bandwidth == pytest.approx(speed, rel=1e-3)


def test_an_own_policy_drives_the_store(store: Make) -> None:
    newest = store(policies.NAME)
    client = newest.connected()
    known, ids = 0, []
    for n in range(16):
        ids += fill(newest, 1)
        known = n + 1 if client.stats().bytes_spilled == 0 else known
    assert ways(newest) == {"spill"}
    assert client.stats().eviction == policies.NAME
    # Of those that were there when the first went, the newest are on disk.
    holds = [client.hold(object_id) for object_id in ids[:known]]
    on_disk = [bool(hold.moved) for hold in holds]
    assert on_disk == sorted(on_disk)


def test_memory_by_kind(store: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path)
    mixed = store()
    gc.collect()
    _native.ArenaProbe.trim()
    warm(mixed, path)
    client = mixed.connected()
    ids = fill(mixed, 2)
    view = client.get(ids[0])
    column = read_parquet(path, columns=["c0"], client=client)
    shared = client.put(view.append_column("c0", column["c0"]))  # nothing new
    _native.ArenaProbe.trim()
    report = client.memory()
    assert report.objects_in_use == NBYTES
    assert report.cache_in_use >= NBYTES
    # The new object is idle; what it shares with what is in use counts there.
    assert report.objects_idle == NBYTES
    assert report.cache_idle >= 3 * NBYTES
    in_all = report.objects_in_use + report.objects_idle + report.cache_in_use + report.cache_idle
    assert in_all == client.stats().bytes_stored
    assert report.spilled == 0
    # As the kernel counts the segments, of which the server has descriptors.
    assert report.resident == pytest.approx(mixed.memory(), rel=0.02)
    assert report.unpublished == report.resident - in_all
    assert (report.budget, report.high_watermark, report.low_watermark) == (
        BUDGET,
        int(0.9 * BUDGET),
        int(0.8 * BUDGET),
    )
    assert client.get(shared).num_columns == 2
    del view, column
    fill(mixed, 16)
    # The two answers are of two moments, between which a busy disk goes on.
    eventually(
        lambda: client.memory().spilled == client.stats().bytes_spilled > 0, "both say the same"
    )


def test_producers_keep_nothing_warm_while_memory_is_short(store: Make) -> None:
    crowded = store("none")
    client, producer = crowded.connected(), crowded.worker()
    producer.do("from zerrow_store.native import _native")
    used = 7.5 / 8 * BUDGET
    one = f"pa.table({{'x': pc.add(pa.array(range({int(used) // 8})), 1)}})"
    producer.do(f"ids = [client.put({one})]")
    assert client.memory().resident > 0.9 * BUDGET
    wait_until(lambda: producer.do("_native.arena_stats()['warm']") == 0)
    # What it frees now is given back at once, though it would be kept for a second.
    assert (
        producer.do(f"""
        def freed():
            t = pc.add(pa.array(range({NBYTES // 8})), 1)
            del t
            return _native.arena_stats()['warm']
        freed()
    """)
        == 0
    )
    producer.do("client.delete(ids); ids.clear()")
    wait_until(lambda: client.memory().resident < 0.5 * BUDGET)
    wait_until(lambda: producer.do("freed()") > 0)


def test_producers_keep_warm_what_the_budget_has_left(store: Make) -> None:
    roomy = store("none")
    client, producer = roomy.connected(), roomy.worker()
    producer.do("from zerrow_store.native import _native")
    producer.do(f"""
        def fill(tables):
            return [pc.add(pa.array(range({NBYTES // 8})), 1) for _ in range(tables)]
        ids = [client.put(pa.table({{'x': x}})) for x in fill(3)]
    """)
    left = int(0.9 * BUDGET) - 3 * NBYTES
    wait_until(lambda: client.memory().unpublished <= left)
    # More is taken, and freed, than may stay: no tick of the server is waited for.
    warm = producer.do("work = fill(6); work.clear(); _native.arena_stats()['warm']")
    assert NBYTES <= warm <= left
    assert client.memory().resident <= 0.9 * BUDGET + NBYTES
    # What an object leaves is its producer's to use again, before anything is punched.
    punched = producer.do("_native.arena_stats()['punched']")
    producer.do("client.delete([ids.pop()])")
    wait_until(lambda: producer.do("_native.arena_stats()['warm']") >= warm + NBYTES)
    assert producer.do("_native.arena_stats()['punched']") == punched


def producers_that_keep_warm(store: Store) -> tuple[Worker, Worker]:
    """Two of them: work(tables) makes tables, publishes one and deletes it."""
    quota = store.worker(), store.worker()
    for producer in quota:
        producer.do(f"""
            from zerrow_store.native import _native
            def fill(tables):
                return [pc.add(pa.array(range({NBYTES // 8})), 1) for _ in range(tables)]
            def put(table):
                return client.put(pa.table({{'x': table}}))
            def warm():
                return _native.arena_stats()['warm']
            def work(tables):
                work = fill(tables)
                client.delete([put(work[0])])
        """)
    return quota


def test_a_producer_that_rests_makes_way_for_one_that_works(
    store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERROW_DECAY_MS", "600000")  # nothing is given up for its age
    roomy = store("none")
    client = roomy.connected()
    resting, working = producers_that_keep_warm(roomy)
    resting.do("work(6)")
    assert resting.do("warm()") >= 6 * NBYTES

    # As many results as there are processors; then its part grows by more than an eighth each time.
    for _ in range((os.cpu_count() or 1) + 8):
        working.do("work(4)")
        client.memory()  # the server has taken that in
    assert working.do("warm()") >= 4 * NBYTES
    wait_until(lambda: resting.do("warm()") <= 0.9 * BUDGET - 4 * NBYTES)
    # When it works again, it has its part.
    resting.do("work(4)")
    assert resting.do("warm()") > 0


def test_who_made_what_stays_keeps_as_much_warm_as_another(
    store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERROW_DECAY_MS", "600000")
    roomy = store("none")
    client = roomy.connected()
    quota = producers_that_keep_warm(roomy)
    # With two tables for each, one of which is published, this fits.
    quota[0].do("stay = [put(table) for table in fill(3)]")

    def take_turns(rounds: int) -> None:
        for _ in range(rounds):
            for producer in quota:
                producer.do("work(1)")
                client.memory()  # the server has taken that in

    take_turns(10)
    punched = [producer.do("_native.arena_stats()['punched']") for producer in quota]
    take_turns(10)
    assert [producer.do("_native.arena_stats()['punched']") for producer in quota] == punched


def test_producers_are_held_back_while_room_is_made(
    store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(_native, "hold_back", told.append)
    spilling = store()
    client = spilling.connected()
    fill(spilling, 7)
    assert told == []
    # More than the budget, of which the store can only spill what is published.
    kept = [make(n) for n in range(32)]
    wait_until(lambda: told and told[-1] == 0.0)
    assert told[0] == 1.0
    assert client.stats().bytes_stored == 0
    assert all(table.equals(make(n)) for n, table in enumerate(kept))


# --- disks that fail ---


def outcomes(store: Store, ids: list[bytes]) -> list[bool]:
    """Whether each table is lost; what is not is equal to what was put."""
    client, lost = store.connected(), []
    for n, object_id in enumerate(ids):
        try:
            table = client.get(object_id)
        except ObjectLostError as error:
            if "spilled bytes" not in str(error):
                raise
            lost.append(True)
        else:
            assert table.equals(make(n))
            lost.append(False)
    return lost


def fill_up(store: Store, ids: list[bytes]) -> None:
    """Put tables until there is no room."""
    while True:
        ids.append(store.connected().put(make(len(ids))))


def test_a_flipped_bit_on_disk_is_an_error_for_that_object_alone(store: Make) -> None:
    spilling = store()
    ids = fill(spilling, 32)
    with open(spilled_files(spilling.server_pid())[0], "r+b") as file:
        file.seek(NBYTES // 2)
        byte = file.read(1)
        file.seek(NBYTES // 2)
        file.write(bytes([byte[0] ^ 4]))
    assert sum(outcomes(spilling, ids)) == 1
    assert sum(outcomes(spilling, ids)) == 1  # and stays one
    assert client_is_well(spilling)


def test_a_truncated_file_is_an_error_and_no_signal(store: Make) -> None:
    spilling = store()
    ids = fill(spilling, 32)
    os.truncate(spilled_files(spilling.server_pid())[0], NBYTES // 2)
    assert any(outcomes(spilling, ids))
    assert client_is_well(spilling)


def client_is_well(store: Store) -> bool:
    client = store.connected()
    return bool(client.get(client.put(make(77))).equals(make(77)))


def test_the_directory_deleted_underneath(store: Make, disk: Path) -> None:
    spilling = store()
    ids = fill(spilling, 16)
    shutil.rmtree(disk)
    client = spilling.connected()
    with pytest.raises(StoreFullError):
        fill_up(spilling, ids)
    assert not any(outcomes(spilling, ids))
    client.delete(ids)
    assert client_is_well(spilling)


def test_an_unusable_directory_is_a_full_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERROW_SPILL_DIR", "/proc")
    full = Store(f"evict-{os.urandom(4).hex()}", budget=BUDGET)
    try:
        ids: list[bytes] = []
        with pytest.raises(StoreFullError):
            fill_up(full, ids)
        assert len(ids) == BUDGET // NBYTES
        assert not any(outcomes(full, ids))
    finally:
        full.stop()


# --- processes that die ---


def stopped_while_it_spills(pid: int) -> bool:
    """Stop a server; go on unless it is writing to disk now, which takes a second thread."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    if len(os.listdir(f"/proc/{pid}/task")) > 1:
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def test_kill_9_of_the_store_while_it_spills(store: Make, disk: Path) -> None:
    spilling = store()
    client, ids = spilling.connected(), []
    for round_ in range(2):
        producer, killed = spilling.worker(), disk / f"killed{round_}"
        producer.start(f"""
            from tests.helpers.small_store import make
            ids = []
            while len(ids) < 12 or not os.path.exists({str(killed)!r}):
                ids.append(client.put(make({len(ids)} + len(ids))))
        """)
        server = spilling.server_pid()
        wait_until(lambda pid=server: stopped_while_it_spills(pid))
        kill(server)
        killed.touch()
        producer.finish()
        killed.unlink()
        ids += producer.do("ids")
        assert not any(outcomes(spilling, ids))
    assert list(disk.iterdir()) == []
    client.delete(ids)
    wait_until(lambda: client.stats().bytes_spilled == client.stats().bytes_stored == 0)
    wait_until(lambda: spilled_files(spilling.server_pid()) == [])


def test_kill_9_of_all_of_a_store_leaves_no_files(name: str, disk: Path) -> None:
    command = [sys.executable, "-m", "zerrow_store.server.supervisor", "--name", name]
    command += ["--budget", str(BUDGET)]
    with subprocess.Popen(command, start_new_session=True):
        try:
            wait_until(lambda: name in running_stores())
            server = Client(name).stats().pid
            producer = Worker()
            producer.do(f"import zerrow_store; client = zerrow_store.connect({name!r})")
            producer.start("""
                from tests.helpers.small_store import make
                while True:
                    client.put(make(0))
            """)
            wait_until(lambda: stopped_while_it_spills(server))
            assert files_below(disk) != []
            wait_until(lambda: len(supervisors_of(name)) == 2)
            for pid in supervisors_of(name):
                os.kill(pid, signal.SIGSTOP)  # it must not see the server's end
            kill(server)
        finally:
            for pid in supervisors_of(name):
                os.kill(pid, signal.SIGKILL)
    producer.kill()
    assert name not in running_stores()
    assert list(disk.iterdir()) == []
    assert files_below(disk) == []


def files_below(directory: Path) -> list[str]:
    """What anybody has open in a directory, with a name or without."""
    found = []
    for fd in glob.glob("/proc/[0-9]*/fd/*"):  # any process may end meanwhile
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd))
    return [link for link in found if link.startswith(f"{directory}/")]


READS_UNTIL = """
import time
from zerrow_store import _disk
checksum, reads = _disk.checksum, []
def stopping(*arguments):
    reads.append(arguments)
    if len(reads) == {count}:
        open({path!r}, "w").close()
        while os.path.exists({path!r}):
            time.sleep(0.01)
    return checksum(*arguments)
_disk.checksum = stopping
"""
"""In a reader: stops before it reads for the `count`th time, as long as there is a file."""


@pytest.mark.parametrize("count", [1, 2, 9])
def test_kill_9_while_a_reader_reads_back(store: Make, tmp_path: Path, count: int) -> None:
    spilling = store()
    ids = fill(spilling, 32)
    client, reading = spilling.connected(), tmp_path / "reading"
    for victim in ("reader", "server"):
        reader = spilling.worker()
        reader.do(READS_UNTIL.format(count=count, path=str(reading)))
        reader.start(f"rows = [client.get(i).num_rows for i in {ids!r}]")
        wait_until(reading.exists)
        if victim == "reader":
            reader.kill()
            reading.unlink()
        else:
            kill(spilling.server_pid())
            reading.unlink()
            reader.finish()
            assert reader.do("rows") == [make(0).num_rows] * len(ids)
            reader.do("gc.collect()")
        wait_until(lambda: all(info.holds == 0 for info in client.list()))
        assert not any(outcomes(spilling, ids))
