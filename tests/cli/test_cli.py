"""The `zerrow` command, as its user runs it."""

import json
import os
import resource
import subprocess
import sys
import threading

import pyarrow as pa
import pytest
import yaml

import zerrow_store
from tests.helpers.data import table
from tests.helpers.processes import processes
from tests.helpers.python import zerrow
from tests.helpers.waiting import wait_until
from zerrow_store.memory import huge_pages
from zerrow_store.protocol import sockets


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_status_says_in_which_pages_arenas_are(name, mode):
    fields = ("status", "--name", name, "--format", "json")
    shown = json.loads(zerrow(*fields, ZERROW_HUGE_PAGES=mode).stdout)
    found = mode == "auto" and huge_pages.probe().available
    assert shown["huge_pages"].startswith("2 MiB" if found else "none: ")


def test_starting_twice_is_no_error(name):
    again = zerrow("start", "--name", name)
    assert again.returncode == 0
    assert "is running already" in again.stdout


def test_server_and_supervisors_have_descriptors_for_all_segments(name):
    zerrow("stop", "--name", name)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert zerrow("start", "--name", name).returncode == 0
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
    shown = json.loads(zerrow("status", "--name", name, "--format", "json").stdout)
    assert shown["objects"] == 1
    assert shown["bytes_stored"] == table().nbytes
    assert shown["budget"] == 512 << 20
    assert "budget:" in zerrow("status", "--name", name).stdout
    (row,) = json.loads(zerrow("objects", "--name", name, "--format", "json").stdout)
    assert (row["object"], row["bytes"]) == (object_id.hex(), table().nbytes)
    header, line = zerrow("objects", "--name", name).stdout.splitlines()
    assert header.split()[:2] == ["OBJECT", "BYTES"]
    assert line.startswith(object_id.hex())
    client.close()


def test_memory_and_evictions(name, tmp_path, monkeypatch):
    zerrow("stop", "--name", name)
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    assert zerrow("start", "--name", name, "--memory", "8MiB").returncode == 0
    client = zerrow_store.connect(name)
    ids = [client.put(table()) for _ in range(16)]
    memory = json.loads(zerrow("memory", "--name", name, "--format", "json").stdout)
    assert memory["budget"] == 8 << 20
    assert memory["objects_idle"] + memory["spilled"] == 16 * table().nbytes
    rows = json.loads(zerrow("evictions", "--name", name, "--format", "json").stdout)
    assert {(row["way"], row["returned"]) for row in rows} == {("spill", False)}
    # The store may go on evicting between one command and the next.
    assert 0 < memory["spilled"] <= sum(row["bytes"] for row in rows) <= 16 * table().nbytes
    assert all(row["expected_seconds"] > 0 and row["seconds"] > 0 for row in rows)
    header, *lines = zerrow("evictions", "--name", name).stdout.splitlines()
    assert "EXPECTED SECONDS" in header
    assert len(lines) >= len(rows)
    assert "spilled:" in zerrow("memory", "--name", name).stdout
    rows = json.loads(zerrow("memory", "--by-segment", "--name", name, "--format", "json").stdout)
    assert sum(row["spilled"] + row["objects_idle"] for row in rows) == 16 * table().nbytes
    assert {row["pid"] for row in rows} == {0, os.getpid()}
    assert "OBJECTS IDLE" in zerrow("memory", "--by-segment", "--name", name).stdout
    client.delete(ids)
    client.close()


def test_rows_are_filtered_sorted_cut_and_summed_up(name):
    client = zerrow_store.connect(name)
    held = client.get(client.put(table(rows=300_000)))
    ids = [client.put(table(rows=100_000 * n)) for n in (1, 2)]
    named = ("--name", name, "--format", "json")
    rows = json.loads(zerrow("objects", "--sort-by", "bytes", "--limit", "2", *named).stdout)
    assert [row["bytes"] for row in rows] == [held.nbytes, table(200_000).nbytes]
    ids.append(client.put(table(), name="taxis"))
    (row,) = json.loads(zerrow("objects", "--filter", "name=taxis", *named).stdout)
    assert row["object"] == ids.pop().hex()
    client.delete_named("taxis")
    (row,) = json.loads(zerrow("objects", "--filter", "holds=1", *named).stdout)
    assert row["bytes"] == held.nbytes
    rows = json.loads(
        zerrow("objects", "--filter", "bytes<2MiB", "--filter", "holds=0", *named).stdout
    )
    assert [row["object"] for row in rows] == [ids[0].hex()]
    (group,) = json.loads(zerrow("memory", "--group-by", "process", *named).stdout)
    assert group == {
        "pid": os.getpid(),
        "objects": 3,
        "bytes": table(600_000).nbytes,
        "in_use": held.nbytes,
        "idle": table(300_000).nbytes,
        "bytes_spilled": 0,
    }
    header, line = zerrow("objects", "--detail", "--limit", "1", "--name", name).stdout.splitlines()
    assert "PID" in header
    assert str(os.getpid()) in line
    shown = yaml.safe_load(zerrow("status", "--name", name, "--format", "yaml").stdout)
    assert (shown["name"], shown["objects"]) == (name, 3)
    client.close()


def test_copies(name):
    client = zerrow_store.connect(name)
    client.put(table())
    outside = pa.Array.from_buffers(pa.int64(), 1 << 18, [None, pa.py_buffer(bytes(2 << 20))])
    object_id = client.put(outside)
    (row,) = json.loads(zerrow("copies", "--name", name, "--format", "json").stdout)
    assert (row["object"], row["pid"]) == (object_id.hex(), os.getpid())
    assert row["copied"] == 2 << 20
    client.close()


@pytest.mark.parametrize("command", ["status", "objects", "stop"])
def test_without_a_store_the_error_says_what_to_do(command):
    done = zerrow(command, "--name", "no-such-store")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no store named 'no-such-store' is running" in done.stderr
    assert "zerrow start" in done.stderr


def test_wrong_arguments():
    assert zerrow("start", "--memory", "lots").returncode == 2
    assert zerrow("fly").returncode == 2
    both = ("--by-segment", "--group-by", "process")
    assert zerrow("memory", "--name", "no-such-store", *both).returncode == 2
    assert zerrow("objects", "--format", "xml").returncode == 2


def test_wrong_questions_say_what_is_right(name):
    for asked, reason in [
        (["objects", "--filter", "colour=red"], "no column 'colour'; there are"),
        (["objects", "--filter", "red"], "write it like"),
        (["memory", "--group-by", "job"], "--group-by process"),
        (["status", "--node", "here"], "cannot be combined"),
    ]:
        done = zerrow(*asked, "--name", name)
        assert (done.returncode, done.stdout) == (1, "")
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error_to_tell(name):
    command = [sys.executable, "-m", "zerrow_store.cli.main", "status", "--name", name]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait(timeout=60) == 1


def test_doctor():
    done = zerrow("doctor", "--format", "json")
    checks = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert checks["memfd"]["ok"]
    assert checks["capture of Arrow"]["ok"]
    assert not checks["kernelzero"]["ok"] or checks["kernelzero"]["finding"] == "available"
    assert "CHECK" in zerrow("doctor").stdout


@pytest.mark.parametrize(
    "setting",
    [
        "ZERROW_ARENA_CAPACITY=1",
        "ZERROW_CAPTURE_ARROW=perhaps",
        "ZERROW_DECAY_MS=soon",
        "ZERROW_EVICTION=least",
        "ZERROW_HUGE_PAGES=yes",
        "ZERROW_KERNELZERO=maybe",
        "ZERROW_MEMORY=much",
        "ZERROW_THRESHOLD=4 parsecs",
        "ZERROW_WARM_LIMIT=-1",
    ],
)
def test_doctor_fails_for_a_setting_that_makes_no_sense(setting, monkeypatch):
    name, value = setting.split("=")
    monkeypatch.setenv(name, value)
    done = zerrow("doctor", "--format", "json")
    (finding,) = [row["finding"] for row in json.loads(done.stdout) if row["check"] == "settings"]
    assert finding.startswith(name), finding
    assert done.returncode == 1
    assert done.stderr == ""


def test_doctor_names_the_limit_that_leaves_no_room_for_an_arena():
    limited = 'ulimit -f 1024; exec "$0" -m zerrow_store.cli.main doctor --format json'
    done = subprocess.run(["sh", "-c", limited, sys.executable], capture_output=True, text=True)
    checks = {row["check"]: row for row in json.loads(done.stdout)}
    for name in "memfd", "capture of Arrow", "capture of NumPy", "huge pages":
        assert not checks[name]["ok"]
        assert "ulimit -f" in checks[name]["finding"]
    assert done.returncode == 1
    assert done.stderr == ""


def test_doctor_says_where_the_logs_are(name, tmp_path):
    zerrow("stop", "--name", name)
    log = tmp_path / "store.log"
    assert zerrow("start", "--name", name, "--log", str(log)).returncode == 0
    with sockets.listen(f"{name}-other") as of_another_version:
        threading.Thread(target=lambda: of_another_version.accept()[0].close()).start()
        checks = json.loads(zerrow("doctor", "--format", "json").stdout)
    (finding,) = [row["finding"] for row in checks if row["check"] == "logs"]
    assert f"store {name}: {log}" in finding
    assert f"{name}-other.log perhaps" in finding
    assert {path.name for path in tmp_path.iterdir()} == {"store.log", "store-supervisor.log"}
