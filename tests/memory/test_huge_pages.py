"""Arenas in huge pages: who gets them, that nothing shows of it elsewhere, and what they take.

What is said of a process comes from the kernel: its mappings, its files' blocks, its page faults.

The file is long because who gets them, what shows, and what they take are said in one place.
"""

import pytest

from tests.helpers.huge_pages import ORDINARY, needs_huge_pages, needs_root, run, run_forbidden
from zerrow_store.cli.doctor import examine
from zerrow_store.config import MemoryConfig
from zerrow_store.memory import huge_pages

# --- who gets them ---


@needs_huge_pages
def test_arenas_are_in_huge_pages_where_there_are_any() -> None:
    run("assert in_huge_pages() and _native.arena_stats()['page'] == 2 << 20")
    run("assert in_huge_pages()", ZERROW_HUGE_PAGES="on")


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_the_setting(mode: str) -> None:
    environ = {"ZERROW_HUGE_PAGES": f" {mode.upper()} "}
    assert MemoryConfig.from_environment(environ).huge_pages == mode
    assert MemoryConfig.from_environment({}).huge_pages == "auto"
    with pytest.raises(ValueError, match="ZERROW_HUGE_PAGES: 'yes' is not auto, on or off"):
        MemoryConfig.from_environment({"ZERROW_HUGE_PAGES": "yes"})


def test_the_doctor_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def finding() -> tuple[bool, str]:
        (check,) = [check for check in examine() if check.name == "huge pages"]
        assert not check.needed
        return check.ok, check.finding

    monkeypatch.setenv("ZERROW_HUGE_PAGES", "auto")
    monkeypatch.setattr(huge_pages, "probe", lambda: huge_pages.HugePages(True, "2 MiB, so and so"))
    assert finding() == (True, "2 MiB, so and so")
    monkeypatch.setenv("ZERROW_HUGE_PAGES", "off")
    assert finding() == (False, "off (ZERROW_HUGE_PAGES=auto uses them): 2 MiB, so and so")
    monkeypatch.setattr(huge_pages, "probe", lambda: huge_pages.HugePages(False, "forbidden"))
    assert not finding()[0]
    assert finding()[1].startswith("forbidden; ")


def test_they_can_be_switched_off() -> None:
    run(
        """
        assert not in_huge_pages()
        size = os.sysconf("SC_PAGE_SIZE")
        assert _native.arena_stats()["page"] == size
        before = resident()
        kept = fill(1 << 20)
        assert resident() - before <= (1 << 20) + size
        """,
        ZERROW_HUGE_PAGES="off",
    )


@needs_huge_pages
@needs_root
def test_an_ordinary_user_gets_them() -> None:
    """By a user namespace of a child."""
    run(
        """
        found = huge_pages.probe()
        assert found.available and "user namespace" in found.finding, found
        assert in_huge_pages()
        fill(100 << 20)
        """,
        user=ORDINARY,
    )


def test_who_may_have_no_namespaces_does_without() -> None:
    run_forbidden(
        """
        found = huge_pages.probe()
        assert not found.available
        assert "Operation not permitted" in found.finding and "No space left" in found.finding
        assert not in_huge_pages()
        fill(100 << 20)
        """
    )


def test_asked_for_they_have_to_be_there() -> None:
    run_forbidden(
        """
        try: memory.start()
        except errors.HugePagesError as error:
            assert str(error).startswith("ZERROW_HUGE_PAGES=on: ")
            assert "user namespace" in str(error)
        else: raise AssertionError
        # What asks for seals has them, in whatever pages.
        memory.start(MemoryConfig(arena_capacity=64 << 20, warm_limit=0, decay_ms=500,
                                  huge_pages="on", arena_sealable=True))
        _native.arena_segment()
        """,
        ZERROW_HUGE_PAGES="on",
    )


@needs_huge_pages
@needs_root
@pytest.mark.parametrize("umask", ["0o777", "0o477", "0o077"])
def test_the_umask_takes_nothing_of_them(umask: str) -> None:
    run(
        f"""
        os.umask({umask})
        assert in_huge_pages()
        _, fd, _ = _native.arena_segment()
        assert os.fstat(fd).st_mode & 0o777 == 0o400
        os.close(os.open(f"/proc/self/fd/{{fd}}", os.O_RDONLY))
        """,
        user=ORDINARY,
    )


@needs_huge_pages
@pytest.mark.parametrize(
    ("limit", "named"),
    [("RLIMIT_FSIZE", "ulimit -f"), ("RLIMIT_AS", "ulimit -v"), ("RLIMIT_NOFILE", "ulimit -n")],
)
def test_asked_for_where_no_arena_can_be_they_are_an_error(limit: str, named: str) -> None:
    run(
        f"""
        import resource
        used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        least = dict(RLIMIT_FSIZE=1 << 20, RLIMIT_AS=used + (32 << 20), RLIMIT_NOFILE=8)["{limit}"]
        resource.setrlimit(resource.{limit}, (least, least))
        spare = []
        if "{limit}" == "RLIMIT_NOFILE":
            while len(os.listdir("/proc/self/fd")) < 8: spare.append(os.dup(0))
        try: memory.start()
        except errors.HugePagesError as error:
            assert str(error).startswith("ZERROW_HUGE_PAGES=on: "), error
            assert "{named}" in str(error), error
        else: raise AssertionError(_native.captured())
        """,
        ZERROW_HUGE_PAGES="on",
    )


def test_a_file_that_is_to_be_sealed_is_a_memfd() -> None:
    run(
        """
        import fcntl
        memory.start(MemoryConfig(arena_capacity=64 << 20, warm_limit=0, decay_ms=500,
                                  huge_pages="auto", arena_sealable=True))
        _, fd, _ = _native.arena_segment()
        executable = 0x20  # F_SEAL_EXEC, of Linux 6.3
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ~executable
        assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        """
    )


# --- what shows of it ---


@pytest.fixture(params=["this", pytest.param("ordinary", marks=needs_root)])
def user(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "this" else ORDINARY


@needs_huge_pages
def test_no_process_sees_a_mount(user: str) -> None:
    run(
        """
        from pathlib import Path
        def mounts():
            found = {}
            for process in Path("/proc").iterdir():
                try:
                    if process.name.isdigit():
                        found[process.name] = (process / "mountinfo").read_text()
                except OSError:
                    continue
            return found
        before = mounts()
        assert in_huge_pages()
        kept = fill(10 << 20)
        after = mounts()
        own = str(os.getpid())
        assert before[own] == after[own]
        assert all(before[p] == after[p] for p in before.keys() & after.keys())
        import re
        sources = re.compile(r" - tmpfs \\S+ \\S*huge=always", re.M)
        assert not any(sources.search(text) for text in after.values())
        """,
        user=user,
    )


@needs_huge_pages
def test_the_program_does_not_notice_the_child(user: str) -> None:
    """No signal, nothing to wait for, no descriptor but the file's, no handler of fork()."""
    run(
        """
        import signal, threading
        seen = []
        signal.signal(signal.SIGCHLD, lambda *_: seen.append("signal"))
        os.register_at_fork(before=lambda: seen.append("fork"))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        threads = threading.active_count()
        def links():
            paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
            return sorted(os.readlink(p) for p in paths if os.path.lexists(p))
        before = links()
        _native.configure_arena(
            capacity=1 << 30, warm_limit=0, decay_ms=500, huge_pages="auto"
        )
        _, fd, _ = _native.arena_segment()
        assert os.readlink(f"/proc/self/fd/{fd}") == "/zerrow (deleted)"
        assert [l for l in links() if l != "/zerrow (deleted)"] == before
        assert not os.get_inheritable(fd)
        for _ in range(20): assert huge_pages.probe().available
        assert len(links()) == len(before) + 2
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
        try: os.waitpid(-1, os.WNOHANG)
        except ChildProcessError: pass
        else: raise AssertionError
        assert seen == [] and threads == threading.active_count()
        """,
        user=user,
    )


@needs_huge_pages
def test_only_its_producer_can_write_to_a_file(user: str) -> None:
    run(
        """
        memory.start()
        _, fd, size = _native.arena_segment()
        os.ftruncate(fd, size)
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        for change in (lambda: os.ftruncate(reader, 0), lambda: os.pwrite(reader, b"x", 0)):
            try: change()
            except OSError: pass
            else: raise AssertionError
        if os.geteuid() != 0:
            for path in (reader, fd):
                try: os.open(f"/proc/self/fd/{path}", os.O_RDWR)
                except PermissionError: pass
                else: raise AssertionError
        assert os.fstat(fd).st_nlink == 0 and os.fstat(fd).st_mode & 0o777 == 0o400
        assert os.statvfs(fd).f_ffree == 0  # nothing else can be made there
        """,
        user=user,
    )


# --- what they take ---


@needs_huge_pages
def test_small_tables_are_packed() -> None:
    run(
        """
        memory.start()
        _native.arena_segment()
        base = resident()
        tables = [pa.table({"a": pa.array(range(1000)), "b": [str(i) for i in range(1000)]})
                  for _ in range(1000)]
        used = sum(t.get_total_buffer_size() for t in tables)
        assert used > 10 << 20
        assert resident() - base <= 1.3 * used + (4 << 20)
        """
    )


@needs_huge_pages
def test_an_idle_process_holds_two_huge_pages_at_most() -> None:
    run(
        """
        import time
        memory.start()
        for size in (100 << 20, 3 << 20, 40_000, 100):
            kept = [fill(size) for _ in range(3)]
        kept = fill(1000)
        while resident() > 4 << 20: time.sleep(0.01)
        """
    )


@needs_huge_pages
def test_small_allocations_of_every_size_fit_into_two_huge_pages() -> None:
    run(
        """
        import time
        memory.start()
        sizes = [*range(64, 513, 64)]
        sizes += [(512 << k) + (128 << k) * n for k in range(6) for n in (1, 2, 3, 4)]
        assert len(sizes) == 32 and sizes[-1] == 32 << 10
        kept = [fill(size) for size in sizes]
        while resident() > 4 << 20: time.sleep(0.01)
        """,
        ZERROW_DECAY_MS="40",
    )


@needs_huge_pages
def test_an_idle_process_gives_back_parts_of_huge_pages() -> None:
    """What stays of what it made holds little beside itself, wherever it lies."""
    run(
        """
        import time
        memory.start()
        buffers = [fill(64 << 10) for _ in range(512)]  # of 16 huge pages, one in 32 stays
        kept = buffers[::32]
        del buffers
        while resident() > 4 << 20: time.sleep(0.01)
        assert all(set(k.to_pybytes()) == {1} for k in kept)
        """,
        ZERROW_DECAY_MS="40",
    )


@needs_huge_pages
def test_large_memory_goes_back_when_it_is_freed() -> None:
    run(
        """
        memory.start()
        base = resident()
        kept, walls = [], []
        for _ in range(4):
            walls.append(fill(100_000))
            kept.append(fill(40 << 20))
        del kept
        assert resident() <= base + (8 << 20)
        assert all(set(w.to_pybytes()) == {1} for w in walls)
        """,
        ZERROW_DECAY_MS="0",
    )


@needs_huge_pages
@pytest.mark.parametrize("mib", [1.9, 4, 7.5, 8])
def test_what_stays_between_what_goes_keeps_nothing_beside_itself(mib: float) -> None:
    """As of a table that is made with the help of another one, which goes."""
    run(
        f"""
        import time
        memory.start()
        _native.arena_segment()
        size, kept = int({mib} * (1 << 20)), []
        whole = -(-size // (2 << 20)) * (2 << 20)
        for n in range(6):
            small, helper = fill(8000), fill(size)
            kept.append(fill(size))
            del small, helper
            while resident() > len(kept) * whole: time.sleep(0.01)
        """,
        ZERROW_DECAY_MS="40",
    )


@needs_huge_pages
def test_parts_of_huge_pages_go_back_where_memory_is_short() -> None:
    run(
        """
        memory.start()
        _native.ArenaProbe.trim(0)
        base = resident()
        buffers = [fill(64 << 10) for _ in range(512)]  # of 16 huge pages, one in 32 stays
        kept = buffers[::32]
        del buffers
        import time
        time.sleep(0.5)
        assert resident() - base >= 30 << 20  # no huge page is wholly free
        _native.ArenaProbe.trim(0)
        assert _native.arena_stats()["warm"] == 0
        assert resident() - base <= 2 << 20
        assert all(set(k.to_pybytes()) == {1} for k in kept)
        # A page that is wholly free again is huge again.
        del kept
        _native.ArenaProbe.trim(0)
        assert resident() <= base
        address = _native.ArenaProbe.allocate(20 << 20)
        import ctypes
        before = resident()
        ctypes.memset(address, 1, 1)
        assert resident() - before == 2 << 20
        """,
        ZERROW_DECAY_MS="100",
    )


@needs_huge_pages
def test_what_is_given_back_of_a_page_does_not_come_back() -> None:
    """khugepaged would make the page whole again."""
    run(
        """
        import ctypes, time
        MADV_COLLAPSE = 25
        memory.start()
        buffers = [fill(64 << 10) for _ in range(512)]
        kept = buffers[::32]
        del buffers
        _native.ArenaProbe.trim(0)
        split = most = resident()
        assert split <= 2 << 20
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for k in kept:
            if madvise(k.address & -(2 << 20), 2 << 20, MADV_COLLAPSE) != 0:
                # Before Linux 6.1 nobody can ask for it.
                assert ctypes.get_errno() == errno.EINVAL, os.strerror(ctypes.get_errno())
                sys.exit()
            most = max(most, resident())
        assert most > split
        while resident() > split: time.sleep(0.01)
        assert all(set(k.to_pybytes()) == {1} for k in kept)
        """
    )


@needs_huge_pages
@pytest.mark.parametrize("born", ["arrow", "numpy"])
def test_writing_and_reading_fault_once_for_each_huge_page(born: str) -> None:
    run(
        f"""
        import resource
        import pandas  # which Arrow would import
        memory.start()
        _native.arena_segment()
        def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        before = faults()
        data = np.full(128 << 20, 1, np.uint8) if {born!r} == "numpy" else fill(128 << 20)
        assert faults() - before < 200, faults() - before
        # Not by an array over Arrow's memory, which could be written to: that would be copied.
        buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
        column = pa.Array.from_buffers(pa.uint8(), 128 << 20, [None, buffer])
        encoded = _native.encode(pa.table({{"a": column}}), move=False)
        assert encoded.bytes_shared == 128 << 20
        before = faults()
        view = _native.decode(encoded.message, encoded)["a"].chunk(0)
        assert view.to_numpy().max() == 1
        assert faults() - before < 200, faults() - before
        before = faults()
        assert np.frombuffer(data, np.uint8).max() == 1  # what its owner has left of it
        assert faults() - before < 200, faults() - before
        if {born!r} == "numpy":
            data[::32 << 20] = 2
            assert faults() - before < 300, faults() - before
            assert view.to_numpy().max() == 1
        """
    )
