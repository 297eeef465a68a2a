"""What the machine cannot give is refused; and whatever ends, nothing is left of it."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.processes import descendants
from tests.helpers.sandboxes import groups, where
from tests.helpers.waiting import eventually
from zerrow_store import once, sandbox
from zerrow_store.cli.main import main
from zerrow_store.errors import SandboxError, SandboxUnavailableError
from zerrow_store.sandbox import cgroups, launcher, pool, process


@pytest.fixture
def _anew() -> None:
    sandbox.close()


@pytest.mark.usefixtures("_anew")
def test_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for best_effort in (False, True):
        with pytest.raises(SandboxUnavailableError, match="bubblewrap is not installed"):
            sandbox.run(os.getpid, best_effort=best_effort)


@needs_sandboxes
@pytest.mark.parametrize("step", ["_group", "add", "added"])
def test_interrupted_before_the_call(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """While its process is prepared, by the caller itself: the sandbox ends at once, and whole."""
    started, made = [], []

    add = cgroups.Cgroup.add

    def interrupted(*arguments: Any) -> None:
        made.extend(arguments if step != "_group" else [])
        if step == "added":
            add(*arguments)
        raise KeyboardInterrupt

    def noting(options: sandbox.SandboxOptions, control: int) -> "subprocess.Popen[bytes]":
        started.append(launcher.launch(options, control))
        return started[-1]

    sandbox.close()
    with monkeypatch.context() as patch:
        patch.setattr(process, "launch", noting)
        place = (process, "_group") if step == "_group" else (cgroups.Cgroup, "add")
        patch.setattr(*place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(lambda: 1, fresh=True)
    assert started[0].poll() is not None
    assert not made or not made[0]._memory.exists()
    assert sandbox.run(lambda: 1) == 1


@needs_sandboxes
@pytest.mark.usefixtures("_anew")
def test_interrupted_while_a_spare_one_gets_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.run(lambda: 1)
    eventually(lambda: pool.current()._spare, "there is a spare sandbox")
    (spare,) = pool.current()._spare.values()

    def interrupted(_: process.Sandbox) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process.Sandbox, "prepared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(lambda: 1, tenant="another")
    assert spare._process.poll() is not None
    assert sandbox.run(lambda: 1, tenant="another") == 1


@pytest.mark.usefixtures("_anew")
def test_without_control_groups(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZERROW_SANDBOX_CGROUP", str(tmp_path))
    cgroups.hierarchies.cache_clear()
    monkeypatch.setattr(once, "_warned", set())
    try:
        with pytest.raises(SandboxUnavailableError, match="ZERROW_SANDBOX_CGROUP"):
            sandbox.run(os.getpid)
        with caplog.at_level(logging.WARNING):
            assert sandbox.run(os.getpid, best_effort=True) > 1
        assert "weaker limits, by setrlimit" in caplog.text
        with pytest.raises(SandboxError, match="memory limit"):
            sandbox.run(lambda: len(bytearray(1 << 30)), memory="128MiB", best_effort=True)
    finally:
        cgroups.hierarchies.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_without_a_filter(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*, network: bool) -> int:
        raise OSError("libseccomp.so.2: cannot open shared object file")

    monkeypatch.setattr(launcher, "make_filter", missing)
    monkeypatch.setattr(once, "_warned", set())
    with pytest.raises(SandboxUnavailableError, match="no system call filter"):
        sandbox.run(os.getpid)
    with caplog.at_level(logging.WARNING):
        assert sandbox.run(os.getpid, best_effort=True) > 1
    assert "no system call filter" in caplog.text


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(SandboxUnavailableError, match="not-there"):
        sandbox.run(os.getpid, readable=["/not-there"])


@pytest.mark.parametrize(
    "wrong",
    [{"memory": "1MiB"}, {"memory": "much"}, {"timeout": 0}, {"processes": 0}, {"tmp": 1}],
)
def test_options_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"memory|much|timeout|processes|tmp"):
        sandbox.run(os.getpid, **wrong)


def test_the_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    for part in ("namespaces", "system call filter", "memory and process limits"):
        assert f"sandbox: {part}" in said


@needs_sandboxes
def test_a_host_that_is_killed_takes_its_sandboxes_along(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import os, time
        from zerrow_store import sandbox
        def work():
            print("working", flush=True)
            os.fork()
            time.sleep(1000)
        sandbox.run(work)
    """)
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    assert host.stdout.readline() == "working\n"
    inside = descendants(host.pid)
    assert len(inside) >= 4
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inside), "they end")
    left = groups(host.pid)
    assert left
    cgroups.hierarchies.cache_clear()
    cgroups.hierarchies()  # the next process that looks for groups sweeps up
    assert groups(host.pid) == []


@needs_sandboxes
def test_a_forked_child_has_sandboxes_of_its_own() -> None:
    ours = {sandbox.run(where) for _ in range(5)}
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, sandbox.run(where).encode())
            sandbox.close()
        finally:
            os._exit(0)
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    assert theirs.startswith("pid:")
    assert theirs not in ours
    assert sandbox.run(where).startswith("pid:")


@needs_sandboxes
def test_a_result_outlives_its_sandbox() -> None:
    table = sandbox.run(lambda: pa.table({"x": pc.add(pa.array(np.arange(100_000)), 1)}))
    sandbox.close()
    assert pc.sum(table["x"]).as_py() == sum(range(100_001))
