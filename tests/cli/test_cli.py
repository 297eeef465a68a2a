"""The `zerrow` command, as its user runs it."""

import json
import os
import resource
import subprocess
import sys
import threading
import uuid

import pytest

import zerrow_store
from tests.node.conftest import table
from tests.node.helpers import processes, wait_until
from zerrow_store.memory import huge_pages
from zerrow_store.protocol import sockets


def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "zerrow_store.cli.main", *arguments]
    env = os.environ | environ
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def name():
    chosen = f"test-{uuid.uuid4().hex[:12]}"
    started = run("start", "--name", chosen, "--memory", "512MiB")
    assert started.returncode == 0, started.stderr
    assert "512 MiB" in started.stdout
    yield chosen
    run("stop", "--name", chosen)


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_status_says_in_which_pages_arenas_are(name, mode):
    fields = ("status", "--name", name, "--format", "json")
    shown = json.loads(run(*fields, ZERROW_HUGE_PAGES=mode).stdout)
    found = mode == "auto" and huge_pages.probe().available
    assert shown["huge_pages"].startswith("2 MiB" if found else "none: ")


def test_starting_twice_is_no_error(name):
    again = run("start", "--name", name)
    assert again.returncode == 0
    assert "is running already" in again.stdout


def test_server_and_supervisors_have_descriptors_for_all_segments(name):
    run("stop", "--name", name)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert run("start", "--name", name).returncode == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    client = zerrow_store.connect(name)
    wait_until(lambda: client.stats().supervisors == 2)
    client.close()
    limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in processes("--name", name)]
    assert limits == [(hard, hard)] * 3


def test_status_and_objects(name):
    client = zerrow_store.connect(name)
    object_id = client.put(table())
    shown = json.loads(run("status", "--name", name, "--format", "json").stdout)
    assert shown["objects"] == 1
    assert shown["bytes_stored"] == table().nbytes
    assert shown["budget"] == 512 << 20
    assert "budget:" in run("status", "--name", name).stdout
    (row,) = json.loads(run("objects", "--name", name, "--format", "json").stdout)
    assert (row["object"], row["bytes"]) == (object_id.hex(), table().nbytes)
    header, line = run("objects", "--name", name).stdout.splitlines()
    assert header.split()[:2] == ["OBJECT", "BYTES"]
    assert line.startswith(object_id.hex())
    client.close()


def test_memory_and_evictions(name, tmp_path, monkeypatch):
    run("stop", "--name", name)
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    assert run("start", "--name", name, "--memory", "8MiB").returncode == 0
    client = zerrow_store.connect(name)
    ids = [client.put(table()) for _ in range(16)]
    memory = json.loads(run("memory", "--name", name, "--format", "json").stdout)
    assert memory["budget"] == 8 << 20
    assert memory["objects_idle"] + memory["spilled"] == 16 * table().nbytes
    rows = json.loads(run("evictions", "--name", name, "--format", "json").stdout)
    assert {(row["way"], row["returned"]) for row in rows} == {("spill", False)}
    # The store may go on evicting between one command and the next.
    assert 0 < memory["spilled"] <= sum(row["bytes"] for row in rows) <= 16 * table().nbytes
    assert all(row["expected_seconds"] > 0 and row["seconds"] > 0 for row in rows)
    header, *lines = run("evictions", "--name", name).stdout.splitlines()
    assert "EXPECTED SECONDS" in header
    assert len(lines) >= len(rows)
    assert "spilled:" in run("memory", "--name", name).stdout
    rows = json.loads(run("memory", "--by-segment", "--name", name, "--format", "json").stdout)
    assert sum(row["spilled"] + row["objects_idle"] for row in rows) == 16 * table().nbytes
    assert {row["pid"] for row in rows} == {0, os.getpid()}
    assert "OBJECTS IDLE" in run("memory", "--by-segment", "--name", name).stdout
    client.delete(ids)
    client.close()


@pytest.mark.parametrize("command", ["status", "objects", "stop"])
def test_without_a_store_the_error_says_what_to_do(command):
    done = run(command, "--name", "no-such-store")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no store named 'no-such-store' is running" in done.stderr
    assert "zerrow start" in done.stderr


def test_wrong_arguments():
    assert run("start", "--memory", "lots").returncode == 2
    assert run("fly").returncode == 2


def test_doctor():
    done = run("doctor", "--format", "json")
    checks = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert checks["memfd"]["ok"]
    assert checks["capture of Arrow"]["ok"]
    assert not checks["kernelzero"]["ok"] or checks["kernelzero"]["finding"] == "available"
    assert "CHECK" in run("doctor").stdout


def test_doctor_says_where_the_logs_are(name, tmp_path):
    run("stop", "--name", name)
    log = tmp_path / "store.log"
    assert run("start", "--name", name, "--log", str(log)).returncode == 0
    with sockets.listen(f"{name}-other") as of_another_version:
        threading.Thread(target=lambda: of_another_version.accept()[0].close()).start()
        checks = json.loads(run("doctor", "--format", "json").stdout)
    (finding,) = [row["finding"] for row in checks if row["check"] == "logs"]
    assert f"store {name}: {log}" in finding
    assert f"{name}-other.log perhaps" in finding
    assert {path.name for path in tmp_path.iterdir()} == {"store.log", "store-supervisor.log"}
