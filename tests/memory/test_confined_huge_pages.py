"""Huge pages where something is forbidden, hidden, limited or killed: had all the same, or done
without, and nothing is left behind.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory.huge import ORDINARY, needs_huge_pages, needs_root, run
from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.sandbox.cgroups import Cgroup, hierarchies

SETTING = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
own_machine = pytest.mark.skipif(
    "ZERROW_TEST_GUEST" not in os.environ,
    reason="changes the machine's settings: runs in the guests of `make test-kernel`",
)

FILTER = """
import ctypes, resource, struct
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
            assert "Operation not permitted" in found.finding, found
        memory.start()
        assert os.readlink(f"/proc/self/fd/{_native.arena_segment()[1]}").startswith("/memfd:")
        kept = fill(10 << 20)
        assert len(links()) == len(before) + 1 and no_child()
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
def huge_bytes():
    lines = open("/proc/self/smaps").read().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("ShmemPmdMapped"))
"""


# --- limited ---


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
        # All but a huge page and a half, in pieces.
        while {limit} - charged() > 3 << 20: kept = [kept, fill(64 << 10)]
        left = 0
        while {limit} - charged() > 1 << 19:
            kept = [kept, fill(64 << 10)]
            left += 1
        assert left >= 30
        """
    )
    assert not group.killed()


# --- killed ---


@needs_huge_pages
@needs_root
@pytest.mark.parametrize("call", ["fsconfig", "fsmount", "unlinkat", "sendmsg", "exit"])
def test_nothing_is_left_of_a_child_that_is_killed(call: str) -> None:
    """That makes the file for an ordinary user."""
    run(
        f"""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        before = links()
        kill_at({call!r})
        found = huge_pages.probe()
        made = {call!r} == "exit"  # which is after all that it has to do
        assert found.available == made and ("was killed" in found.finding) == (not made), found
        assert links() == before and no_child()
        assert in_huge_pages() == made
        assert len(links()) == len(before) + 1 and no_child()
        kept = fill(10 << 20)
        """,
        user=FILTER + ORDINARY,
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
