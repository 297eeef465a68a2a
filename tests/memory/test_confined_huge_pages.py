"""Huge pages where something is forbidden, hidden, limited or killed: had all the same, or done
without, and nothing is left behind.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.huge_pages import ORDINARY, needs_huge_pages, needs_root, run
from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.sandbox.cgroups import Cgroup, hierarchies

SETTING = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
own_machine = pytest.mark.skipif(
    "ZERROW_TEST_GUEST" not in os.environ,
    reason="changes the machine's settings: runs in the guests of `make test-kernel`",
)

FILTER = """
import ctypes, resource, struct
before_5_16 = tuple(map(int, os.uname().release.split(".")[:2])) < (5, 16)
libc = ctypes.CDLL(None, use_errno=True)
def install(program):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    filter = ctypes.byref(Program(len(program) // 8, program))
    assert libc.prctl(22, 2, filter) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP
def kill_at(name):
    number = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(name.encode())
    assert number > 0
    install(struct.pack("HBBI" * 4, 0x20, 0, 0, 0,  # the call's number
                        0x15, 0, 1, number,
                        0x06, 0, 0, 0x80000000,  # its process is killed
                        0x06, 0, 0, 0x7FFF0000))
def links():
    paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(p) for p in paths if os.path.lexists(p))
def no_child():
    try: os.waitpid(-1, os.WNOHANG | 0x40000000)  # __WALL
    except ChildProcessError: return True
"""


# --- forbidden and hidden ---


def test_a_filter_of_system_calls_as_containers_have_it() -> None:
    run(
        """
        from zerrow_store.sandbox.seccomp import make_filter
        before = links()
        install(os.pread(make_filter(network=True), 1 << 20, 0))
        before = links()
        found = huge_pages.probe()
        if not found.available:
            why = "before Linux 5.16" if before_5_16 else "Operation not permitted"
            assert why in found.finding, found
        memory.start()
        assert os.readlink(f"/proc/self/fd/{_native.arena_segment()[1]}").startswith("/memfd:")
        kept = fill(10 << 20)
        assert len(links()) == len(before) + 2 and no_child()
        """,
        user=FILTER,
    )


@needs_huge_pages
@needs_root
def test_processes_that_are_hidden() -> None:
    """Of an ordinary user, who sees in /proc what is its own."""
    run(
        """
        assert not os.path.exists("/proc/1") and os.path.exists("/proc/self/maps")
        assert in_huge_pages()
        kept = fill(10 << 20)
        assert "user namespace" in huge_pages.probe().finding
        """,
        user="""
import ctypes
libc = ctypes.CDLL(None)
assert libc.unshare(0x00020000) == 0  # CLONE_NEWNS
assert libc.mount(b"none", b"/", None, (1 << 14) | (1 << 18), None) == 0  # MS_REC, MS_PRIVATE
assert libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2") == 0
"""
        + ORDINARY,
    )


@own_machine
@pytest.mark.parametrize("chosen", ["never", "advise", "within_size", "always", "force", "deny"])
def test_what_shared_memory_gets_by_default(chosen: str) -> None:
    """It matters to who has no tmpfs of its own, and deny to all."""
    before = SETTING.read_text().partition("[")[2].partition("]")[0]
    SETTING.write_text(chosen)
    denied = f"""
        found = huge_pages.probe()
        assert {chosen == "deny"} == (not found.available), found
        memory.start()
        kept = fill(20 << 20)
        assert in_huge_pages() == {chosen != "deny"}
        huge = resident() % (2 << 20) == 0 and huge_bytes() == resident()
        assert huge == {chosen != "deny"}
    """
    lent = f"""
        install(os.pread(make_filter(network=True), 1 << 20, 0))
        found = huge_pages.probe()
        assert found.available == {chosen not in ("never", "deny")}, found
        memory.start()
        kept = fill(20 << 20)
        assert not in_huge_pages()
        assert (huge_bytes() >= 20 << 20) == {chosen not in ("never", "deny")}
    """
    try:
        run(denied, user=HUGE_BYTES)
        run(lent, user=FILTER + HUGE_BYTES)
    finally:
        SETTING.write_text(before)


HUGE_BYTES = """
from zerrow_store.sandbox.seccomp import make_filter
def huge_bytes_of_all():
    # Also of those that are mapped as small ones, where such were mapped before.
    open("/proc/sys/vm/stat_refresh", "w").write("1")  # each processor counts on its own
    (line,) = [line for line in open("/proc/meminfo") if line.startswith("ShmemHugePages")]
    return int(line.split()[1]) << 10
def huge_bytes():
    lines = open("/proc/self/smaps").read().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("ShmemPmdMapped"))
"""


# --- limited ---

FRAGMENTED = """
import ctypes, mmap, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mlock.argtypes = libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
MADV_DONTNEED = 4
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
def anonymous(size, advice):
    made = mmap.mmap(-1, size, flags=ANONYMOUS)
    made.madvise(advice)
    return made, ctypes.addressof(ctypes.c_char.from_buffer(made))
def number(path, name):
    (line,) = [line for line in open(path) if line.split()[0].rstrip(":") == name]
    return int(line.split()[1])
def change(setting, value):
    with open("/proc/sys/vm/" + setting, "w") as file: file.write(value)
def lock(address, size):
    assert libc.mlock(address, size) == 0, os.strerror(ctypes.get_errno())
def got_huge_page(address):
    before = number("/proc/vmstat", "thp_fault_alloc")
    lock(address, 2 << 20)
    return number("/proc/vmstat", "thp_fault_alloc") > before
def fragment():
    # Of every 256 KiB one page that compaction may not move.
    change("compact_unevictable_allowed", "0")
    size = ((number("/proc/meminfo", "MemAvailable") << 10) - (200 << 20)) >> 18 << 18
    pieces, start = anonymous(size, mmap.MADV_NOHUGEPAGE)
    lock(start, size)
    for address in range(start, start + size, 256 << 10):
        assert libc.munlock(address + 4096, 252 << 10) == 0
        assert libc.madvise(address + 4096, 252 << 10, MADV_DONTNEED) == 0
    # And every huge page that is left, or that reclaim and compaction make.
    rest, start = anonymous(1 << 30, mmap.MADV_HUGEPAGE)
    blocks = iter(range(-(-start // (2 << 20)) * (2 << 20), start + len(rest) - (2 << 20), 2 << 20))
    got = True
    while got:
        change("drop_caches", "3")
        change("compact_memory", "1")
        got = False
        while got_huge_page(next(blocks)): got = True
    return pieces, rest
"""
"""A process that breaks the machine's free memory into pieces, for as long as it lives.

Each lies beside a page that is locked, so that compaction makes no huge page of them.
"""


@pytest.fixture
def no_swap() -> Iterator[None]:
    """A machine where no process's memory is given back for another's."""
    libc = ctypes.CDLL(None, use_errno=True)
    used = [line.split()[0].encode() for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    for device in used:
        assert libc.swapoff(device) == 0, os.strerror(ctypes.get_errno())
    yield
    for device in used:
        assert libc.swapon(device, 0) == 0, os.strerror(ctypes.get_errno())


@own_machine
@pytest.mark.usefixtures("no_swap")
def test_where_no_huge_page_is_free_small_ones_are_used() -> None:
    """With swap, Linux 5.10 would make them of other processes' memory."""
    run(
        """
        held = fragment()
        found = huge_pages.probe()
        assert found.available and "none is free" in found.finding, found
        assert in_huge_pages()
        kept = fill(200 << 20)
        assert huge_bytes() <= 20 << 20, huge_bytes()
        assert 200 << 20 <= resident() <= 204 << 20
        small = [fill(1000) for _ in range(10_000)]
        assert resident() <= 220 << 20
        assert np.frombuffer(kept, np.uint8).min() == 1
        del kept, small
        while resident() > 4 << 20: time.sleep(0.01)
        # And huge ones again as soon as they are free.
        del held
        before = huge_bytes_of_all()
        kept = fill(200 << 20)
        again = huge_bytes_of_all() - before
        assert again >= 190 << 20, again
        """,
        user=FRAGMENTED + HUGE_BYTES,
    )


@pytest.fixture
def group() -> Iterator[Cgroup]:
    try:
        made = Cgroup(hierarchies())
    except (OSError, SandboxUnavailableError) as error:
        pytest.skip(f"no control group can be made: {error}")
    yield made
    made.remove()


@needs_huge_pages
def test_what_is_left_of_a_limit_is_used_in_small_pages(group: Cgroup) -> None:
    """Where no huge page fits any more; and it is charged for what is resident."""
    limit = (256 << 20) + (1 << 20)
    group.limit(memory=limit, processes=100)
    run(
        f"""
        group = {str(group._memory)!r}
        memory.start()
        _native.arena_segment()
        with open(group + "/cgroup.procs", "w") as file: file.write(str(os.getpid()))
        names = [f"{{group}}/memory.{{name}}" for name in ("usage_in_bytes", "current")]
        (usage,) = filter(os.path.exists, names)
        def charged(): return int(open(usage).read())
        before = charged()
        assert in_huge_pages()
        kept = fill(100 << 20)
        assert 100 << 20 <= resident() <= 104 << 20
        assert abs(charged() - before - resident()) < 4 << 20, (charged() - before, resident())
        # Whatever this process has taken for itself, most of a huge page is left in the end.
        ballast = b"x" * (({limit} - charged() - (7 << 18)) % (2 << 20))
        while {limit} - charged() > 2 << 20: kept = [kept, fill(64 << 10)]
        left = 0
        while {limit} - charged() > 1 << 19:
            kept = [kept, fill(64 << 10)]
            left += 1
        assert left >= 15
        """
    )
    assert not group.killed()


# --- killed ---


@needs_huge_pages
@pytest.mark.parametrize("user", ["", pytest.param(ORDINARY, marks=needs_root)])
@pytest.mark.parametrize(
    "call", ["fsopen", "fsconfig", "fsmount", "unshare", "unlinkat", "sendmsg", "exit"]
)
def test_nothing_is_left_of_a_child_that_is_killed(call: str, user: str) -> None:
    """As by a filter of system calls whose default that is; nor is the process hurt."""
    run(
        f"""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        before = links()
        kill_at({call!r})
        found = huge_pages.probe()
        # "exit" is after all that there is to do.
        made = {call!r} == "exit" or {call!r} == "unshare" and os.geteuid() == 0
        if before_5_16:
            made = False
            assert not found.available and "before Linux 5.16" in found.finding, found
        else:
            assert found.available == made and ("was killed" in found.finding) == (not made), found
        assert links() == before and no_child()
        assert in_huge_pages() == made
        assert len(links()) == len(before) + 2 and no_child()
        kept = fill(10 << 20)
        """,
        user=FILTER + user,
    )


@needs_huge_pages
@pytest.mark.parametrize("user", ["", pytest.param(ORDINARY, marks=needs_root)])
def test_nothing_is_left_of_a_process_that_is_killed(user: str) -> None:
    """Its file's device is the next one's."""
    run(
        """
        devices = set()
        for _ in range(100):
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                assert in_huge_pages()
                fill(3 << 20)
                os.write(writer, str(os.fstat(_native.arena_segment()[1]).st_dev).encode())
                signal.pause()
            devices.add(os.read(reader, 100))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reader), os.close(writer)
        assert len(devices) < 50, len(devices)
        """,
        user="import signal" + user,
    )
