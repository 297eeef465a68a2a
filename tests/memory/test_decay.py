"""Memory goes back to the kernel: by itself after a while, beyond a bound at once."""

import textwrap

import pytest

from tests.helpers.python import run_python

PRELUDE = """
import os, time
import pyarrow as pa, numpy as np
from zerrow_store import memory
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native
memory.start()
def resident(): return os.fstat(_native.arena_segment()[1]).st_blocks * 512
def fill(size):
    buffer = allocate(size)
    np.frombuffer(buffer, np.uint8)[:] = 1
    return buffer
"""
MIB = 1 << 20


def run(code: str, **environ: str) -> None:
    run_python(PRELUDE + textwrap.dedent(code), **environ)


def test_unused_memory_decays() -> None:
    run(
        """
        small = [fill(2000) for _ in range(10_000)]
        buffer = fill(64 << 20)
        assert resident() >= 83 << 20
        del buffer, small
        assert _native.arena_stats()["warm"] >= 64 << 20
        while resident(): time.sleep(0.01)
        stats = _native.arena_stats()
        assert stats["warm"] == stats["live"] == 0 and stats["punched"] >= 83 << 20
        """,
        ZERROW_DECAY_MS="100",
    )


def test_memory_in_use_again_and_again_stays_warm() -> None:
    run(
        """
        # Longer than the decay, with each buffer free for a moment only.
        end = time.monotonic() + 1
        fill(64 << 20)
        while time.monotonic() < end: fill(64 << 20)
        # What the imports left free may go, the buffer's memory may not.
        assert _native.arena_stats()["punched"] < 64 << 20
        """,
        ZERROW_DECAY_MS="400",
    )


def test_memory_beyond_the_bound_goes_at_once() -> None:
    run(
        """
        held = [fill(8 << 20) for _ in range(8)]
        del held
        assert _native.arena_stats()["warm"] <= 10 << 20
        assert resident() <= 10 << 20
        """,
        ZERROW_WARM_LIMIT="10MiB",
        ZERROW_DECAY_MS="1000000",
    )


def test_what_is_in_use_counts_for_the_bound_of_the_unpublished() -> None:
    run(
        """
        _native.bound_unpublished(40 << 20)
        held = [fill(8 << 20) for _ in range(8)]
        del held[:4]  # more than that is in use, or nearly
        assert _native.arena_stats()["warm"] <= 8 << 20
        del held
        assert 30 << 20 <= _native.arena_stats()["warm"] <= 40 << 20
        assert resident() <= 42 << 20
        # What was pinned is the store's, and does not count.
        published = fill(32 << 20)
        _native.bound_unpublished(16 << 20)
        assert _native.arena_stats()["warm"] == 0
        encoded = _native.encode(pa.Array.from_buffers(pa.uint8(), 32 << 20, [None, published]))
        fill(8 << 20)
        assert _native.arena_stats()["warm"] >= 8 << 20
        _native.bound_unpublished(None)
        fill(64 << 20)
        assert _native.arena_stats()["warm"] >= 64 << 20
        """,
        ZERROW_DECAY_MS="1000000",
    )


@pytest.mark.parametrize("size", [100, 7600 << 10], ids=["slabs", "ends of pages"])
def test_all_that_is_in_memory_and_no_objects_counts_for_that_bound(size: int) -> None:
    """Also what small allocations lie in, and what is left at the end of what was published."""
    run(
        f"""
        size = {size}
        if size < 1000:
            kept = [fill(n) for n in range(64, 32 << 10, 64)]
        else:
            kept = [fill(size) for _ in range(16)]
            kept = [pa.Array.from_buffers(pa.uint8(), size, [None, b]) for b in kept]
            encoded = [_native.encode(array) for array in kept]
        _native.ArenaProbe.trim(0)
        _native.bound_unpublished(24 << 20)
        for _ in range(3):
            helpers = [fill(8 << 20) for _ in range(5)]
            del helpers
            stats = _native.arena_stats()
            assert stats["warm"] >= 10 << 20
            assert resident() - stats["pinned"] <= 24 << 20, (resident(), stats)
        """,
        ZERROW_DECAY_MS="1000000",
    )


@pytest.mark.parametrize("setting", ["ZERROW_WARM_LIMIT", "ZERROW_DECAY_MS"])
def test_nothing_stays_warm_at_zero(setting: str) -> None:
    run(
        """
        fill(64 << 20)
        assert _native.arena_stats()["warm"] == 0 and resident() == 0
        """,
        **{setting: "0"},
    )


def test_the_arena_has_one_thread_and_starts_it_with_the_first_free() -> None:
    run(
        """
        memory.stop()
        def threads(): return len(os.listdir("/proc/self/task"))
        # In a child, whose arena is new and has freed nothing.
        pid = os.fork()
        if not pid:
            assert threads() == 1
            probe = _native.ArenaProbe
            addresses = [probe.allocate(100_000) for _ in range(100)]
            assert threads() == 1
            for address in addresses: probe.free(address)
            assert threads() == 2
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        """
    )


def test_the_thread_leaves_signals_to_the_program() -> None:
    run(
        """
        import signal
        hits = []
        signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
        fill(1 << 20)
        while True:
            masks = [
                line.split()[1]
                for task in os.listdir("/proc/self/task")
                for line in open(f"/proc/self/task/{task}/status")
                if line.startswith("SigBlk")
            ]
            if any(int(mask, 16) & 1 << signal.SIGUSR1 - 1 for mask in masks): break
        os.kill(os.getpid(), signal.SIGUSR1)
        while not hits: pass
        """
    )


def test_what_is_left_of_a_warm_range_is_used_with_what_adjoins_it() -> None:
    run(
        """
        wall = fill(64 << 20)
        before = fill(64 << 20), fill(64 << 20)
        after = fill(64 << 20)
        base = resident()
        addresses = sorted(b.address for b in before)
        _native.ArenaProbe.trim(0)  # what the imports left
        del before
        _native.ArenaProbe.trim(32 << 20)  # the end of them goes
        assert _native.arena_stats()["warm"] == 32 << 20 and resident() <= base - (96 << 20)
        # Longer than what is warm: with the cold memory after it, and no page more than that.
        buffer = fill(100 << 20)
        assert buffer.address == addresses[0]
        assert _native.arena_stats()["warm"] == 0 and resident() <= base - (28 << 20)
        assert bytes(memoryview(wall)[:9]) == bytes(memoryview(after)[-9:]) == b"\\x01" * 9
        """,
        ZERROW_DECAY_MS="60000",
    )


def test_a_warm_range_at_the_end_of_a_cold_one_is_used_with_what_is_before_it() -> None:
    run(
        """
        first, second, wall = fill(64 << 20), fill(32 << 20), fill(64 << 20)
        low = first.address
        del first
        _native.ArenaProbe.trim(0)
        base = resident()
        del second
        buffer = fill(96 << 20)
        assert buffer.address == low
        assert _native.arena_stats()["warm"] == 0 and resident() <= base + (64 << 20)
        """,
        ZERROW_DECAY_MS="60000",
    )


GROUP = """
from pathlib import Path
from zerrow_store.cgroups import MemoryGroup
from zerrow_store.memory import capture
group = MemoryGroup(*(Path(name).absolute() for name in ("limit", "usage", "stat", "pressure")))
capture.memory_groups = lambda: [MemoryGroup(*map(str, group))]
group.limit.write_text("1000000000\\n")
group.usage.write_text("950000000\\n")
group.stat.write_text("cache 1\\ninactive_file 200000000\\n")
group.pressure.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\\nfull total=0\\n")
"""
SHORT = {
    "more is used": 'group.usage.write_text("1080000000")',
    "files are in use": 'group.stat.write_text("inactive_file 1000000")',
    "files of version 1": 'group.stat.write_text("inactive_file 900\\ntotal_inactive_file 5")',
    "there is a smaller limit": 'group.limit.write_text("800000000")',
    "somebody waits": 'group.pressure.write_text("some total=9000000000")',
}


@pytest.mark.parametrize("becomes_short", SHORT.values(), ids=SHORT.keys())
def test_memory_goes_at_once_where_it_is_short(tmp_path, monkeypatch, becomes_short: str) -> None:
    monkeypatch.chdir(tmp_path)
    code = f"""
fill(64 << 20)
time.sleep(1)  # some ticks
assert _native.arena_stats()["warm"] >= 64 << 20
{becomes_short}
while _native.arena_stats()["warm"] >= 8 << 20: time.sleep(0.01)
"""
    run_python(GROUP + PRELUDE + code, ZERROW_DECAY_MS="1000000")


@pytest.mark.parametrize(
    "says_nothing",
    [
        'group.limit.write_text("max")',
        'group.limit.write_text("9223372036854771712")',
        "group.limit.unlink()",
        'group.usage.unlink(); group.stat.unlink(); group.pressure.write_text("garbage")',
    ],
)
def test_a_cgroup_that_says_nothing_is_not_short(tmp_path, monkeypatch, says_nothing: str) -> None:
    monkeypatch.chdir(tmp_path)
    code = f"""
group.usage.write_text("1080000000")
{says_nothing}
fill(64 << 20)
time.sleep(1)
assert _native.arena_stats()["warm"] >= 64 << 20
"""
    run_python(GROUP + PRELUDE + code, ZERROW_DECAY_MS="1000000")
