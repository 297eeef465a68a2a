"""The store's logs: where they lie, what gets into them, and that they stay small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import kill
from tests.helpers.waiting import wait_until
from zerrow_store import connect, logs
from zerrow_store.protocol import sockets
from zerrow_store.server.supervisor import Supervisor


def run(code: str, log: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", f"from zerrow_store import logs\n{code}", str(log)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_server_logs_where_it_was_told_also_when_it_is_started_again(
    name: str, tmp_path: Path
) -> None:
    log = tmp_path / "session" / "logs" / "zerrow-store.log"
    supervisor = Supervisor(name, budget=1 << 20, watch_pid=os.getpid(), log=log)
    supervisor.start()
    client = connect(name)
    for count in (1, 2):
        raw = sockets.connect(name)
        raw.sendall(b"\xff" * 64)
        wait_until(lambda count=count: log.read_text().count("dropped process") == count)
        raw.close()
        stats = client.stats()
        assert stats.log == str(log)
        kill(stats.pid)
        assert client.stats().pid != stats.pid
    client.close()
    supervisor.stop()


def test_by_default_the_logs_are_in_the_state_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert logs.default_log("a/b") == tmp_path / "zerrow-store" / "a%2Fb.log"
    supervisor = Supervisor(name, budget=1 << 20, watch_pid=os.getpid())
    supervisor.start()
    assert (tmp_path / "zerrow-store" / f"{name}.log").stat().st_mode & 0o777 == 0o600
    supervisor.stop()
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert logs.default_log("x") == Path.home() / ".local/state/zerrow-store/x.log"


def test_a_store_whose_log_cannot_be_written_runs_without(name: str) -> None:
    supervisor = Supervisor(name, budget=1 << 20, watch_pid=os.getpid(), log=Path("/dev/null/log"))
    supervisor.start()
    client = connect(name)
    assert client.stats().objects == 0
    client.close()
    supervisor.stop()


def test_all_that_a_process_says_is_kept_in_files_of_bounded_size(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = run(
        """
import os, sys, logging
logs._MOST_BYTES = 10_000
logs.start(logs.Path(sys.argv[1]))
for i in range(1000):
    logging.getLogger("zerrow_store.test").info("line %d", i)
os.write(2, b"raw\\n")
raise RuntimeError("the last")
""",
        log,
    )
    assert (done.returncode, done.stderr) == (1, "")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2", "log.3"]
    assert all(path.stat().st_size < 12_000 for path in tmp_path.iterdir())
    text = log.read_text()
    assert "line 999" in text
    assert "raw" in text
    assert "RuntimeError: the last" in text


def test_the_end_of_a_thread_and_a_fatal_signal_are_logged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = """
import os, signal, sys, threading
logs.start(logs.Path(sys.argv[1]))
def fail():
    raise RuntimeError("in a thread")
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGSEGV)
"""
    assert run(code, log).returncode == -11
    text = log.read_text()
    assert "thread worker ends" in text
    assert "RuntimeError: in a thread" in text
    assert "Segmentation fault" in text
