"""Stores and machines of each test's own: supervised, and nothing left of them afterwards."""

import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import zerrow_store
from tests.helpers import small_store
from tests.helpers.capabilities import (
    chromium_is_there,
    graphviz_is_there,
    networks_can_be_made,
    openssl_is_there,
    prometheus_is_there,
    sandboxes_can_be_made,
)
from tests.helpers.machines import Machine
from tests.helpers.stores import Store
from zerrow_store.config import MemoryConfig
from zerrow_store.native import _native
from zerrow_store.server.supervisor import Supervisor

__all__ = [
    "chromium_is_there",
    "graphviz_is_there",
    "networks_can_be_made",
    "openssl_is_there",
    "prometheus_is_there",
    "sandboxes_can_be_made",
    "store",
]

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Started in the background this process ignores control-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _state_directory() -> Iterator[None]:
    """Logs of the tests' stores are not left in the user's directory."""
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", path)
        yield


@pytest.fixture(scope="session", autouse=True)
def _arena_as_configured() -> None:
    """The tests' own arena is as the environment says, also where no capture is started."""
    config = MemoryConfig.from_environment()
    _native.configure_arena(
        capacity=config.arena_capacity,
        warm_limit=config.warm_limit,
        decay_ms=config.decay_ms,
        huge_pages=config.huge_pages,
    )


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"test-{uuid.uuid4().hex[:12]}", budget=1 << 30)
    yield made
    made.stop()
    assert made.remains() == []


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def supervisor(name: str, tmp_path: Path) -> Iterator[Supervisor]:
    running = Supervisor(name, budget=1 << 30, log=tmp_path / "log", watch_pid=os.getpid())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(name: str, supervisor: Supervisor) -> Iterator[zerrow_store.Client]:
    connected = zerrow_store.connect(name)
    yield connected
    connected.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for spilled files; ext4 or the like, as the tests' own directory is."""
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def small(disk: Path) -> Iterator[Store]:
    """A store that holds eight tables."""
    store = Store(f"spill-{os.getpid()}-{os.urandom(4).hex()}", budget=small_store.BUDGET)
    yield store
    store.stop()


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Makes machines."""
    made: list[Machine] = []

    def make(*arguments: object, **options: object) -> Machine:
        made.append(Machine(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def there(machine: Callable[..., Machine]) -> Machine:
    """Where objects are."""
    return machine()


@pytest.fixture
def here(machine: Callable[..., Machine]) -> Machine:
    """Where they are wanted."""
    return machine()
