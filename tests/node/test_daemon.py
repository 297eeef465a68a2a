"""Stores as daemons: started by whoever needs them, with a companion, until nobody does."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.helpers.processes import alive, kill, processes
from tests.helpers.stores import both_supervisors, servers_of, supervisors_of
from tests.helpers.waiting import wait_until
from zerrow_store.client.client import Client
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.server.companion import Lasting
from zerrow_store.server.launch import launch

BUDGET = 64 << 20
COMPANION = """
import socket, sys, time
from zerrow_store.protocol.sockets import transfer_address
from zerrow_store.transfer.agent import wait_for_end
mine = socket.socket(socket.AF_UNIX)
try:
    mine.bind(transfer_address(sys.argv[1]))
except OSError:
    sys.exit()
wait_for_end(sys.argv[1])
"""


@pytest.fixture
def started(name, tmp_path):
    """Starts the store, and sees to it that nothing of it stays."""

    def start(lasting: Lasting = Lasting()) -> Client:  # noqa: B008
        launch(
            name,
            budget=BUDGET,
            eviction="lru",
            log=tmp_path / "log",
            watch_pid=os.getpid(),
            lasting=lasting,
        )
        return Client(name)

    yield start
    if servers_of(name):
        Client(name).shutdown()
    wait_until(lambda: not (servers_of(name) or supervisors_of(name)))


def companions(name: str) -> list[int]:
    return processes(COMPANION, name)


def with_companion(name: str) -> Lasting:
    return Lasting(companion=(sys.executable, "-c", COMPANION, name))


def test_its_processes_are_nobodys_and_hold_no_directory(started, name):
    client = started()
    wait_until(lambda: client.stats().supervisors == 2)
    for pid in (*servers_of(name), *supervisors_of(name)):
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(status[1]) != os.getpid()
        assert int(status[3]) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert "pipe:" not in {os.readlink(f"/proc/{pid}/fd/{fd}").split("[")[0] for fd in (0, 1)}
    client.close()


def test_many_that_start_it_at_once_get_one(name, tmp_path):
    code = textwrap.dedent(f"""
        from pathlib import Path
        from zerrow_store.server.launch import launch
        from zerrow_store.client.client import Client
        launch({name!r}, budget={BUDGET}, eviction="lru", log=Path({str(tmp_path)!r}) / "log",
               watch_pid={os.getpid()})
        print(Client({name!r}).stats().pid)
    """)
    starting = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    pids = {process.communicate()[0] for process in starting}
    assert pids == {f"{pid}\n" for pid in servers_of(name)}
    assert len(pids) == 1
    client = Client(name)
    wait_until(lambda: len(supervisors_of(name)) == client.stats().supervisors == 2)
    client.shutdown()
    wait_until(lambda: not (servers_of(name) or supervisors_of(name)))


def test_one_that_cannot_be_started_says_where_to_look(name, tmp_path):
    with pytest.raises(StoreUnavailableError, match="log"):
        launch(name, budget=BUDGET, eviction="no_such_module:Policy", log=tmp_path / "log")
    assert not servers_of(name)


def test_it_ends_when_nobody_uses_it_and_not_before(started, name):
    client = started(Lasting(unused_seconds=1.0))
    time.sleep(2.5)
    assert client.stats().clients == 1
    client.close()
    wait_until(lambda: not servers_of(name))
    again = started(Lasting(unused_seconds=60.0))
    assert again.stats().clients == 1
    again.close()


def test_it_does_not_end_while_something_is_stored(started, name):
    """As what belongs to an owner on another machine."""
    user = started(Lasting(unused_seconds=1.0))
    code = f"""if True:
        import pyarrow as pa, zerrow_store
        zerrow_store.connect({name!r}).put(pa.table({{"x": range(1000)}}), object_id=b"x")
    """
    subprocess.run([sys.executable, "-c", code], check=True)
    user.close()
    time.sleep(2.5)
    client = Client(name)
    assert client.get(b"x").num_rows == 1000
    client.delete(b"x")
    client.close()
    wait_until(lambda: not servers_of(name))


def test_the_companion_stays_with_the_store(started, name):
    """It is one, whoever is killed; and the store that nobody uses ends all the same."""
    client = started(with_companion(name))
    wait_until(lambda: len(companions(name)) == 1)
    (first,) = companions(name)
    kill(servers_of(name)[0])
    wait_until(lambda: client.stats().supervisors == 2)
    time.sleep(2.5)
    assert companions(name) == [first]
    kill(first)
    wait_until(lambda: len(companions(name)) == 1)
    assert companions(name) != [first]
    for pid in supervisors_of(name):
        kill(pid)
    both_supervisors(name)
    kill(servers_of(name)[0])
    wait_until(lambda: client.stats().supervisors == 2)
    (last,) = companions(name)
    kill(last)
    wait_until(lambda: companions(name) not in ([], [last]))
    client.shutdown()
    client.close()
    wait_until(lambda: not companions(name))
    assert not alive(last)


def test_a_supervisor_that_a_server_has_started_starts_no_store(name, tmp_path):
    """It comes when the store may have been ended on purpose, and knows nothing of it."""
    command = [sys.executable, "-m", "zerrow_store.server.supervisor", "--name", name, "--spare"]
    command += ["--budget", str(BUDGET), "--log", str(tmp_path / "log")]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode
    assert not servers_of(name)
