"""What a store says of memory, against what the kernel counts: PSS, Shmem, the control group."""

import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import memory_files
from tests.helpers.stores import Store
from zerrow_store.native import _native
from zerrow_store.protocol.reports import SegmentMemory

ROWS = 2_000_000
NBYTES = 8 * ROWS
BATCHED = 2 << 20
"""By how much the figures of a control group may be late: every CPU adds up its own first."""

GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"account-{os.urandom(4).hex()}", budget=20 * NBYTES)
    yield made
    made.stop()


def identity(path: str) -> tuple[str, int]:
    """Return a file's device and inode, as the kernel writes them in lists of mappings."""
    status = os.stat(path)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    return device, status.st_ino


def proportional(pids: list[int], files: set[tuple[str, int]]) -> int:
    """PSS of the mappings of some files in some processes: a page that n have counts 1/n each."""
    total = 0
    for pid in pids:
        mapped = "", 0
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                _, _, _, device, inode, *_ = line.split()
                mapped = device, int(inode)
            elif line.startswith("Pss:") and mapped in files:
                total += int(line.split()[1]) * 1024
    return total


def test_resident_is_what_the_processes_have_in_proportion(store: Store) -> None:
    gc.collect()
    _native.ArenaProbe.trim()
    workers = [store.worker() for _ in range(3)]
    for n, worker in enumerate(workers):
        worker.do(f"kept = pc.add(pa.array([{n}] * {ROWS}), 0)")  # nobody else's
        worker.do("made = pa.table({'x': pc.add(kept, 1)})")
        worker.do(f"client.put(made, object_id=b'object{n}')")
    for worker in workers:
        worker.do("views = [client.get(b'object%d' % n) for n in range(3)]")
        assert worker.do("[pc.sum(view['x']).as_py() for view in views]") == [
            ROWS * (n + 1) for n in range(3)
        ]
    report = store.connected().memory()
    files = {identity(path) for path in memory_files(store.server_pid())}
    pids = [os.getpid(), store.server_pid(), *(worker.pid for worker in workers)]
    assert report.resident == pytest.approx(proportional(pids, files), rel=0.02)
    assert report.objects_in_use == 3 * NBYTES
    assert report.unpublished >= 3 * NBYTES


def test_each_segment_by_what_it_is_used_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    small = Store(f"account-{os.urandom(4).hex()}", budget=5 * NBYTES)
    try:
        workers = [small.worker() for _ in range(2)]
        for n, worker in enumerate(workers):
            worker.do(f"kept = pc.add(pa.array([{n}] * {ROWS}), 0)")  # nobody else's
            worker.do("made = pa.table({'x': pc.add(kept, 1), 'y': pc.add(kept, 2)})")
            worker.do(f"client.put(made, object_id=b'object{n}')")
            worker.do(f"client.put(made.select(['x']), object_id=b'shared{n}')")  # nothing new
            worker.do("del made")
        first, second = (worker.pid for worker in workers)
        client = small.connected()
        view = client.get(b"shared0")

        def found() -> dict[int, SegmentMemory]:
            return {each.pid: each for each in client.memory_by_segment()}

        before = found()
        assert (before[first].objects_in_use, before[first].objects_idle) == (NBYTES, NBYTES)
        assert (before[second].objects_in_use, before[second].objects_idle) == (0, 2 * NBYTES)
        assert all(before[pid].unpublished >= NBYTES for pid in (first, second))
        for pid in (first, second):  # each has but one memory file of its own
            links = {identity(path): path for path in memory_files(pid)}
            assert before[pid].resident in {os.stat(p).st_blocks * 512 for p in links.values()}
        # What comes then sends what is idle to disk, of which a file tells.
        for n in range(3):
            workers[1].do(f"more = pa.table({{'x': pc.add(kept, {n + 3})}})")
            workers[1].do(f"client.put(more, object_id=b'more{n}'); del more")
        after = found()
        assert after[first].objects_in_use == NBYTES
        on_disk = [each for each in client.memory_by_segment() if each.spilled]
        assert on_disk
        assert all((each.pid, each.resident, each.unpublished) == (0, 0, 0) for each in on_disk)
        assert sum(each.spilled for each in on_disk) == client.memory().spilled
        assert view.num_rows == ROWS
    finally:
        small.stop()


@pytest.mark.skipif(
    os.geteuid() != 0 or not (GROUPS / "memory.stat").exists(),
    reason="needs root and a memory cgroup of version 1",
)
def test_resident_is_what_a_control_group_is_charged(store: Store) -> None:
    group = GROUPS / f"zerrow-{os.urandom(4).hex()}"
    group.mkdir()

    def charged() -> int:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(stat["shmem"])

    try:
        worker = store.worker()
        (group / "cgroup.procs").write_text(str(worker.pid))
        client = store.connected()
        before = client.memory().resident - charged()
        for n in range(4):
            worker.do(f"made = pa.table({{'x': pc.add(pa.array([{n}] * {ROWS}), 0)}})")
            worker.do(f"client.put(made, object_id=b'object{n}')")
            assert client.memory().resident == pytest.approx(before + charged(), abs=BATCHED)
        assert charged() >= 4 * NBYTES
        worker.do("del made")
        client.delete([b"object0", b"object1", b"object2"])
        worker.do("import gc; gc.collect(); from zerrow_store.native import _native")
        worker.do("_native.ArenaProbe.trim()")
        assert NBYTES - BATCHED <= charged() < 2 * NBYTES
        assert client.memory().resident == pytest.approx(before + charged(), abs=BATCHED)
        worker.kill()
    finally:
        store.stop()
        group.rmdir()
