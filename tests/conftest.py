"""A node store for a test: of its own name, supervised, and nothing left of it afterwards."""

import signal
import tempfile
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.capabilities import (
    chromium_is_there,
    graphviz_is_there,
    networks_can_be_made,
    openssl_is_there,
    sandboxes_can_be_made,
)
from tests.node.helpers import Store
from zerrow_store.config import MemoryConfig
from zerrow_store.native import _native

__all__ = [
    "chromium_is_there",
    "graphviz_is_there",
    "networks_can_be_made",
    "openssl_is_there",
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
