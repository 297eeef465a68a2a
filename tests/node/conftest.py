"""Stores, servers and connections that are made in another way than the tests' usual one."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers import arrow_strategies
from tests.helpers.data import table
from tests.helpers.peers import Peer
from tests.helpers.processes import processes
from tests.helpers.stores import is_there
from tests.helpers.waiting import wait_until
from zerrow_store.client.client import Client
from zerrow_store.server.connection import Connection
from zerrow_store.server.server import Server


@pytest.fixture(autouse=True, scope="package")
def _extension_type() -> Iterator[None]:
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")


@pytest.fixture
def standalone() -> Iterator[str]:
    """A store with a supervisor of its own, as `zerrow start` makes it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "zerrow_store.server.supervisor", "--name", name]
    supervisor = subprocess.Popen([*command, "--budget", str(1 << 30)], start_new_session=True)
    wait_until(lambda: is_there(name))
    yield name
    if is_there(name):
        client = Client(name)
        client.shutdown()
        client.close()
    supervisor.wait()
    wait_until(lambda: not processes("--name", name))
    assert f"-{name}" not in Path("/proc/net/unix").read_text()


@pytest.fixture
def bystander(client):
    """A client with data, which has to be there and right in the end."""
    object_id = client.put(table())
    yield client
    assert client.get(object_id).equals(table())
    (info,) = client.list()
    assert info.object_id == object_id


@pytest.fixture
def peer(name, bystander):
    raw = Peer(name)
    yield raw
    raw.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    listener = socket.socket()
    made = Server(
        "unit",
        budget=1 << 20,
        eviction="adaptive",
        log=tmp_path / "log",
        watched=os.getpid(),
        listener=listener,
    )
    yield made
    for connection in list(made._connections._open):
        made._drop(connection)
    listener.close()


@pytest.fixture
def connected(server: Server) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = server._connected(theirs)
    connection.greeted = True
    yield connection, ours
    ours.close()
