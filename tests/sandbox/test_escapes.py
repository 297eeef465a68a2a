"""Ways out of a sandbox, each tried for real; where it says something, also outside.

Every attempt returns what came of it, so that a test sees that it failed, and for the right reason.

The file is long because each way out is a case.
"""

import _thread
import contextlib
import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.escapes import (
    attempt,
    marked,
    memory_has,
    ptrace,
    reopen_all,
    write_by_mprotect,
    write_by_process_memory,
    write_by_process_vm,
)
from tests.helpers.sandboxes import groups, sandboxes, where
from tests.helpers.waiting import eventually
from zerrow_store import sandbox
from zerrow_store.errors import SandboxError, SandboxMemoryError, SandboxTimeoutError

pytestmark = needs_sandboxes


# --- writing into an input ---


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_by_mprotect, "EACCES"),
        (write_by_process_memory, "EIO"),
        (write_by_process_vm, "EPERM"),
        (ptrace, "EPERM"),
    ],
)
def test_an_input_is_not_written(table: pa.Table, write: Any, reason: str) -> None:
    before = table.to_pydict()
    assert sandbox.run(write, table) == reason
    assert table.to_pydict() == before
    assert sandbox.run(lambda t: t["x"].to_pylist(), table) == before["x"]


def test_an_input_is_not_reopened_for_writing(table: pa.Table) -> None:
    assert "done" not in sandbox.run(reopen_all, table)


def test_a_descriptor_that_is_kept_cannot_write(table: pa.Table) -> None:
    from zerrow_store.sandbox import inputs

    made = inputs.prepare(table)
    fd = os.open(f"/proc/self/fd/{made.segment.fd}", os.O_RDWR)
    try:
        assert attempt(os.pwrite, fd, bytes(8), 0) == "EPERM"  # not even the host can
        assert attempt(os.ftruncate, fd, 0) == "EPERM"
    finally:
        os.close(fd)


# --- reading what was not given ---


def test_another_table_is_not_seen() -> None:
    secret, given = os.urandom(12).hex().encode(), os.urandom(12).hex().encode()
    hidden, shown = marked(secret), marked(given)
    assert not sandbox.run(lambda t, m: memory_has(m), shown, secret[::-1])
    assert sandbox.run(lambda t, m: memory_has(m), shown, given[::-1])
    assert hidden.num_rows == 20_000


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_the_rows_beside_a_slice_are_not_seen(kind: pa.DataType) -> None:
    secret, given = os.urandom(12).hex(), os.urandom(12).hex()
    plain = pa.array([secret] * 10_000 + [given] * 10_000).cast(kind)
    part = pa.table({"m": plain})[10_000:]
    assert not sandbox.run(lambda t, m: memory_has(m), part, secret[::-1].encode())
    assert sandbox.run(lambda t, m: memory_has(m), part, given[::-1].encode())


def test_an_output_shows_nothing_but_itself() -> None:
    """What a call computed on the way does not reach those who get its output."""
    secret = os.urandom(12).hex()

    def compute(word: str) -> pa.Table:
        hidden = pc.binary_join_element_wise(pa.array([word] * 20_000), "", "")
        table = pa.table({"n": pc.add(pa.array(range(20_000)), 1)})
        globals()["keep"] = hidden
        return table

    table = sandbox.run(compute, secret, memory="128MiB")
    copied = sandbox.stats().bytes_copied
    roomy = {"memory": "1GiB"}  # looking at a file of holes fills them
    assert not sandbox.run(lambda t, m: memory_has(m), table, secret[::-1].encode(), **roomy)
    assert sandbox.stats().bytes_copied == copied


def test_neither_home_nor_environment_nor_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = os.urandom(12).hex()
    (tmp_path / "secret").write_text(secret)
    monkeypatch.setenv("A_SECRET", secret)
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(secret)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert os.path.exists(os.path.expanduser("~/.ray/auth_token"))
    sandbox.close()  # a sandbox that is started now

    def look(path: str, home: str) -> dict[str, Any]:
        return {
            "file": os.path.exists(path),
            "home": os.listdir(os.path.expanduser("~")),
            "token": os.path.exists(f"{home}/.ray/auth_token"),
            "shadow": os.path.exists("/etc/shadow"),
            "names": sorted(os.environ),
            "environment": Path("/proc/self/environ").read_bytes(),
            "first": attempt(Path("/proc/1/environ").read_bytes),
            "processes": [pid for pid in os.listdir("/proc") if pid.isdigit()],
        }

    seen = sandbox.run(look, str(tmp_path / "secret"), os.path.expanduser("~"))
    assert (seen["file"], seen["home"], seen["token"], seen["shadow"]) == (False, [], False, False)
    assert "A_SECRET" not in seen["names"]
    assert secret.encode() not in seen["environment"]
    assert seen["first"] == "EACCES"
    assert len(seen["processes"]) == 2
    text = sandbox.run(lambda p: Path(p).read_text(), str(tmp_path / "secret"), readable=[tmp_path])
    assert text == secret


def test_nothing_but_its_own_directories_is_written() -> None:
    def write() -> dict[str, str]:
        return {
            path: attempt(Path(path, "file").write_text, "x")
            for path in ("/", "/usr", "/etc", "/dev", "/home", "/tmp", "/dev/shm", "/home/sandbox")
        }

    def own() -> list[str]:
        return os.listdir("/tmp") + os.listdir("/home/sandbox")

    before = sandbox.run(own)  # what it is given may lie there: a project that is in /tmp
    written = sandbox.run(write)
    assert {path for path, came in written.items() if came == "done"} == {
        "/tmp",
        "/dev/shm",
        "/home/sandbox",
    }
    assert sandbox.run(own) == before


# --- reaching others ---


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def abstract() -> Iterator[str]:
    name = f"\0zerrow-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        yield name


def _connect(family: int, address: Any) -> str:
    def connect() -> None:
        with socket.socket(family) as client:
            client.settimeout(5)
            client.connect(address)

    return attempt(connect)


def test_no_network(listener: socket.socket, abstract: str) -> None:
    address = listener.getsockname()
    # Its loopback is its own, and there is nothing else.
    assert sandbox.run(_connect, socket.AF_INET, address) == "ECONNREFUSED"
    assert sandbox.run(_connect, socket.AF_INET, ("192.0.2.1", 80)) == "ENETUNREACH"
    assert sandbox.run(_connect, socket.AF_UNIX, abstract) == "ECONNREFUSED"
    assert _connect(socket.AF_INET, address) == "done"
    assert _connect(socket.AF_UNIX, abstract) == "done"


def test_with_network_the_store_stays_out_of_reach(listener: socket.socket, abstract: str) -> None:
    address = listener.getsockname()
    assert sandbox.run(_connect, socket.AF_INET, address, network=True) == "done"
    assert sandbox.run(_connect, socket.AF_UNIX, abstract, network=True) == "EAFNOSUPPORT"


def test_other_kinds_of_socket() -> None:
    assert sandbox.run(attempt, socket.socket, 16, socket.SOCK_RAW, 0) == "EAFNOSUPPORT"  # netlink
    assert sandbox.run(attempt, socket.socket, 40, socket.SOCK_STREAM, 0) == "EAFNOSUPPORT"  # vsock


def test_no_new_namespaces_and_no_privileges() -> None:
    def privileges() -> list[Any]:
        libc = ctypes.CDLL(None, use_errno=True)
        results: list[Any] = []
        for flag in (0x10000000, 0x00020000, 0x40000000):
            results.append(libc.unshare(flag) and errno.errorcode[ctypes.get_errno()])
        results.append(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) and ctypes.get_errno())
        status = Path("/proc/self/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return [*results, fields["NoNewPrivs"], fields["Seccomp"], int(fields["CapEff"], 16)]

    assert sandbox.run(privileges) == ["EPERM", "EPERM", "EPERM", errno.EPERM, "1", "2", 0]


def test_other_processes_are_not_killed(table: pa.Table) -> None:
    def kill(host: int) -> list[str]:
        return [
            attempt(os.kill, host, 9),
            attempt(os.kill, 1, 9),
            attempt(os.kill, 1, 19),
            attempt(os.kill, -1, 0),
        ]

    assert sandbox.run(kill, os.getpid())[0] == "ESRCH"
    assert sandbox.run(lambda: 1) == 1  # its first process is untouched
    with pytest.raises(SandboxError):
        sandbox.run(lambda: os.kill(os.getpid(), 9))
    assert sandbox.run(lambda: 1) == 1


# --- taking what the machine has ---


def _processes_in_groups() -> int:
    counts = []
    for group in groups():
        if "/pids/" in group or Path(group, "memory.max").exists():
            with contextlib.suppress(OSError):  # it went since: an earlier sandbox's
                counts.append(len(Path(group, "cgroup.procs").read_text().split()))
    return sum(counts)


def test_a_fork_bomb() -> None:
    def bomb() -> tuple[int, str]:
        children = 0
        while True:
            try:
                pid = os.fork()
            except OSError as error:
                return children, errno.errorcode[error.errno or 0]
            if pid == 0:
                while True:
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(0.01)
            children += 1

    children, reason = sandbox.run(bomb, processes=20)
    assert reason == "EAGAIN"
    assert children < 20
    eventually(lambda: _processes_in_groups() <= 2 * len(sandboxes()), "the bomb is gone")
    assert sandbox.run(lambda: 1) == 1


def _fill_objects() -> int:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)))


def _fill_arena() -> int:
    kept = []
    while True:
        kept.append(pc.add(pa.array(np.arange(1 << 17)), len(kept)))


def _fill_memfd() -> None:
    fd = os.memfd_create("bomb")
    while True:
        os.write(fd, bytes(1 << 20))


def _fill_in_a_child() -> None:
    if os.fork() == 0:
        _fill_objects()
    os.wait()
    _fill_objects()


@pytest.mark.parametrize("bomb", [_fill_objects, _fill_arena, _fill_memfd, _fill_in_a_child])
def test_a_memory_bomb(bomb: Any, table: pa.Table) -> None:
    limit = 128 << 20
    with pytest.raises(SandboxMemoryError) as caught:
        sandbox.run(bomb, memory=limit)
    assert caught.value.limit == limit
    assert limit // 2 < caught.value.peak <= limit
    assert f"{limit:,}" in str(caught.value)
    assert sandbox.run(lambda t: t.num_rows, table, memory=limit) == table.num_rows


def test_filling_tmp() -> None:
    def fill(folder: str) -> tuple[str, int]:
        written = 0
        with open(f"{folder}/file", "wb", 0) as file:
            while True:
                try:
                    written += file.write(bytes(1 << 16))
                except OSError as error:
                    return errno.errorcode[error.errno or 0], written

    for folder in ("/tmp", "/dev/shm", "/home/sandbox"):
        reason, written = sandbox.run(fill, folder, tmp=4 << 20)
        assert reason == "ENOSPC"
        assert written <= 4 << 20
    assert sandbox.run(lambda: os.statvfs("/tmp").f_bfree * 4096, tmp=4 << 20) == 4 << 20


def test_the_next_call_finds_empty_directories(tmp_path: Path) -> None:
    def litter() -> None:
        for folder in ("/tmp", "/dev/shm", "/home/sandbox"):
            os.makedirs(f"{folder}/closed/inner")
            os.symlink("/usr", f"{folder}/closed/usr")
            os.mkfifo(f"{folder}/closed/inner/fifo")
            os.chmod(f"{folder}/closed/inner", 0)
            os.chmod(f"{folder}/closed", 0)
            os.chmod(folder, 0)

    def look() -> list[str]:
        folders = ("/tmp", "/dev/shm", "/home/sandbox")
        return [name for folder in folders for name in os.listdir(folder)]

    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "module.py").write_text("here = True")
    broken = sandbox.stats().broken
    for paths in ([], [str(tmp_path)]):  # what the user names may lie below /tmp, and stays there
        settings: dict[str, Any] = {"python_path": paths, "tenant": "litters"}
        before = sandbox.run(look, **settings)
        for _ in range(5):
            sandbox.run(litter, **settings)
            assert sandbox.run(look, **settings) == before
        assert sandbox.stats().broken == broken
    assert sandbox.run(os.listdir, str(tmp_path / "inner"), **settings) == ["module.py"]


def test_a_call_that_breaks_its_sandbox_breaks_no_other_call() -> None:
    def nest() -> None:
        os.chdir("/tmp")
        for _ in range(3000):
            os.mkdir("deep")
            os.chdir("deep")

    before, clean = sandbox.stats().broken, sandbox.run(os.listdir, "/tmp")
    for _ in range(3):
        sandbox.run(nest, tenant="breaks", tmp=64 << 20)
        assert sandbox.run(os.listdir, "/tmp", tenant="breaks", tmp=64 << 20) == clean
    eventually(lambda: sandbox.stats().broken > before, "it is counted")


# --- staying ---


def _block_all_signals() -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    os.fork()
    while True:
        time.sleep(1)


def test_blocking_for_ever() -> None:
    before = set(sandboxes())
    with pytest.raises(SandboxTimeoutError, match=r"0\.5 s"):
        sandbox.run(_block_all_signals, timeout=0.5, tenant="blocks")
    sandbox.close()
    eventually(lambda: not set(sandboxes()) - before and not groups(), "nothing of it is left")


def test_a_descriptor_held_after_the_end() -> None:
    """A process that outlives the function with the arena mapped writable does not live on."""

    def stay() -> pa.Table:
        table = pa.table({"x": pc.add(pa.array(np.arange(50_000)), 1)})
        address = table["x"].chunk(0).buffers()[1].address
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    ctypes.memset(address, 7, 8)
            os._exit(0)
        return table

    table = sandbox.run(stay)
    first = table["x"][0].as_py()
    again = [table["x"][0].as_py() for _ in range(1000) if not time.sleep(0.0001)]
    assert set(again) == {first}


def test_interrupted() -> None:
    import signal

    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(_block_all_signals, tenant="interrupted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert sandbox.run(lambda: 1, tenant="interrupted") == 1


def test_interrupted_without_a_signal() -> None:
    """As Ray cancels a task."""
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run(_block_all_signals, tenant="cancelled")
    timer.join()
    assert sandbox.run(lambda: 1, tenant="cancelled") == 1


def test_tenants_share_nothing() -> None:
    places = {whose: {sandbox.run(where, tenant=whose) for _ in range(5)} for whose in "aba"}
    assert not places["a"] & places["b"]
    fresh = [sandbox.run(where, tenant="a", fresh=True) for _ in range(3)]
    assert len({*fresh} - places["a"] - places["b"]) == 3
