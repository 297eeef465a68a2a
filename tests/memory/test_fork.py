"""fork: a child neither writes its parent's arena nor sees it change."""

import textwrap

from tests.helpers.python import run_python

# Each runs in a process of its own, because the test runner's has threads.
PRELUDE = """
import ctypes, os, time
import numpy as np, pyarrow as pa, pyarrow.compute
from zerrow_store import memory
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native
memory.start()

class Pipe:
    def __init__(self): self.ends = os.pipe()
    def wait(self): assert os.read(self.ends[0], 1) == b"x"
    def go(self): os.write(self.ends[1], b"x")

def child_ok(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def in_child(function):
    pid = os.fork()
    if pid: return pid
    try:
        function()
    except BaseException:
        import traceback; traceback.print_exc(); os._exit(1)
    os._exit(0)

def quarantined(): return _native.arena_stats()["quarantined"]
def settle():
    while quarantined(): time.sleep(0.01)
"""


def run(code: str) -> None:
    run_python(PRELUDE + textwrap.dedent(code))


def test_writes_of_the_child_do_not_reach_the_parent() -> None:
    run(
        """
        buffers = [allocate(n) for n in (100, 5000, 1 << 20)]
        for b in buffers: ctypes.memset(b.address, 1, b.size)
        array = np.ones(100_000, np.uint8)
        def child():
            for b in buffers: ctypes.memset(b.address, 2, b.size)
            array[:] = 2
            assert all(set(b.to_pybytes()) == {2} for b in buffers) and set(array) == {2}
        child_ok(in_child(child))
        assert all(set(b.to_pybytes()) == {1} for b in buffers) and set(array) == {1}
        """
    )


def test_what_the_parent_recycles_stays_as_it_was_in_the_child() -> None:
    run(
        """
        sizes = (100, 5000, 1 << 20)
        buffers = [allocate(n) for n in sizes]
        for b in buffers: ctypes.memset(b.address, 1, b.size)
        array = np.ones(100_000, np.uint8)
        published = np.ones(100_000, np.uint8)
        probe = _native.ArenaProbe
        assert probe.pin(probe.find(published.ctypes.data, 1)[0])
        changed, looked = Pipe(), Pipe()
        def child():
            changed.wait()
            assert all(set(b.to_pybytes()) == {1} for b in buffers)
            assert set(array) == {1} and set(published) == {1}
            looked.go()
            changed.wait()
        pid = in_child(child)
        addresses = {b.address for b in buffers} | {array.ctypes.data}
        array[:] = 3; published[:] = 3
        del buffers, array
        again = [allocate(n) for n in sizes for _ in range(20)]
        again += [allocate(100_000) for _ in range(20)]
        for b in again: ctypes.memset(b.address, 9, b.size)
        assert not addresses & {b.address for b in again}
        _native.ArenaProbe.trim()
        assert quarantined() > (1 << 20)
        changed.go(); looked.wait()
        assert quarantined() > (1 << 20)
        changed.go(); child_ok(pid)
        settle()
        del again, published
        """
    )


def test_the_child_makes_an_arena_of_its_own() -> None:
    run(
        """
        inherited = pa.array(range(100_000))
        stream = pa.BufferOutputStream(); stream.write(b"x" * 100_000)
        array = np.arange(100_000)
        segment = _native.arena_segment()
        live = _native.arena_stats()["live"]
        def child():
            assert not _native.ArenaProbe.contains(inherited.buffers()[1].address)
            made = pa.array(range(100_000))
            own = _native.arena_segment()
            assert own[0] != segment[0] and own[1] != segment[1]
            assert _native.ArenaProbe.contains(made.buffers()[1].address)
            assert made.equals(inherited)
            stream.write(b"y" * 1_000_000)
            grown = stream.getvalue()
            assert _native.ArenaProbe.contains(grown.address)
            assert grown.to_pybytes() == b"x" * 100_000 + b"y" * 1_000_000
            array.resize(300_000, refcheck=False)
            assert _native.ArenaProbe.contains(array.ctypes.data) and array[99_999] == 99_999
            before = made.to_pylist()
            def grandchild():
                assert made.to_pylist() == before and inherited.equals(made)
                assert _native.arena_segment()[0] not in (own[0], segment[0])
                pa.array(range(1000))
            child_ok(in_child(grandchild))
            globals().pop("inherited"); globals().pop("stream"); globals().pop("array")
        child_ok(in_child(child))
        assert _native.arena_segment() == segment
        assert _native.arena_stats()["live"] == live
        del inherited, stream, array
        settle()
        """
    )


def test_a_grandchild_keeps_the_quarantine() -> None:
    run(
        """
        data = pa.array([7] * 100_000)
        go, done = Pipe(), Pipe()
        def grandchild():
            go.wait()
            assert set(data.to_pylist()) == {7}
            done.go()
        child_ok(in_child(lambda: in_child(grandchild)))
        del data
        for _ in range(50): pa.array([8] * 100_000)
        assert quarantined()
        go.go(); done.wait()
        settle()
        """
    )


def test_a_child_that_executes_is_gone() -> None:
    run(
        """
        import subprocess, sys
        data = pa.array([7] * 100_000); array = np.ones(100_000)
        process = subprocess.Popen(["sleep", "100"], preexec_fn=lambda: None)
        del data, array
        settle()
        process.kill(); process.wait()
        """
    )


def test_many_forks_leave_no_descriptor_and_no_mapping() -> None:
    run(
        """
        def count():
            _native.ArenaProbe.trim()
            return len(os.listdir("/proc/self/fd")), sum(1 for _ in open("/proc/self/maps"))
        def once():
            arrays = [np.ones(100_000) for _ in range(5)]
            child_ok(in_child(lambda: None))
            del arrays
            settle()
        once()
        before = count()
        for _ in range(50): once()
        after = count()
        assert after[0] == before[0] and after[1] <= before[1] + 3, (before, after)
        """
    )


def test_fork_while_threads_allocate() -> None:
    run(
        """
        import threading
        stop = threading.Event()
        def work():
            while not stop.is_set():
                a = allocate(3000); b = np.ones(50_000); del a, b
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads: t.start()
        def child():
            # Memory only: Arrow's own kernels may hang in a child of a busy process, with or
            # without the capture.
            for size in (64, 3000, 1 << 20):
                buffer = allocate(size)
                np.frombuffer(buffer, np.uint8)[:] = 1
                assert np.frombuffer(buffer, np.uint8).sum() == size
            assert np.ones(100_000).sum() == 100_000
        for _ in range(30): child_ok(in_child(child))
        stop.set()
        for t in threads: t.join()
        settle()
        """
    )


def test_multiprocessing_with_fork() -> None:
    run(
        """
        import multiprocessing
        table = pa.table({"a": np.arange(100_000)})
        def total(i): return pa.compute.sum(table["a"]).as_py() + i
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(total, range(4)) == [4_999_950_000 + i for i in range(4)]
        """
    )


def test_what_the_parent_writes_to_arrays_of_arrows_does_not_reach_the_child() -> None:
    """Of every size: in slabs, in pages, in huge pages."""
    run(
        """
        import pandas as pd
        table = {n: pa.table({"x": pa.array(np.zeros(n)), "y": pa.array(np.zeros(n))})
                 for n in (10, 1000, 100_000, 1_000_000)}
        frames = {n: each.to_pandas() for n, each in table.items()}
        arrays = {n: pa.chunked_array([[0.5, None], [0.0] * n]).to_numpy() for n in table}
        written = Pipe()
        def child():
            written.wait()
            for n in table:
                assert frames[n]["x"].sum() == 0 and frames[n]["y"].sum() == 0, n
                assert np.nansum(arrays[n]) == 0.5, n
        pid = in_child(child)
        for n in table:
            frames[n].loc[:, "x"] = 1.0
            arrays[n][:] = 2.0
        written.go()
        child_ok(pid)
        assert all(frames[n]["x"].sum() == n for n in table)
        # What was not written is shared on as it was.
        encoded = _native.encode(pa.table({"z": pa.compute.add(pa.array(range(100_000)), 1)}))
        assert encoded.bytes_copied == 0 and encoded.bytes_shared > 0
        """
    )


def test_a_fork_takes_no_mapping_for_each_array() -> None:
    run(
        """
        def mappings(): return sum(1 for _ in open("/proc/self/maps"))
        kept = []
        other = pa.array(range(4200))
        for _ in range(6000):
            kept += [np.ones(32 << 10, np.uint8), pa.compute.add(other, 1)]
        before = mappings()
        written = Pipe()
        def child():
            written.wait()
            assert all(set(each) == {1} for each in kept if isinstance(each, np.ndarray))
        pid = in_child(child)
        assert mappings() < before + 4000, (before, mappings())
        for each in kept:
            if isinstance(each, np.ndarray): each[:] = 2
        written.go()
        child_ok(pid)
        """
    )


def test_children_that_have_ended_keep_no_descriptor() -> None:
    """Also if the parent frees nothing meanwhile."""
    run(
        """
        kept = np.ones(1_000_000)
        def descriptors(): return len(os.listdir("/proc/self/fd"))
        child_ok(in_child(lambda: None))
        before = descriptors()
        for _ in range(50): child_ok(in_child(lambda: None))
        assert descriptors() <= before + 1, (before, descriptors())
        """
    )


def test_a_descriptor_that_is_another_files_by_now_is_left_alone() -> None:
    """A program may close all descriptors that it does not know, and open files of its own."""
    run(
        """
        import tempfile
        tables = [pa.table({"x": pa.array(range(2_000_000))}) for _ in range(2)]
        array = np.ones(1_000_000, np.uint8)
        os.closerange(3, 256)
        files = [tempfile.TemporaryFile() for _ in range(6)]
        for file in files: file.write(b"u" * (64 << 20)); file.flush()
        del tables[0]
        pa.default_memory_pool().release_unused()
        child_ok(in_child(lambda: None))
        for file in files:
            file.seek(0)
            assert file.read() == b"u" * (64 << 20)
        assert set(array) == {1} and tables[0]["x"][-1].as_py() == 1_999_999
        """
    )
