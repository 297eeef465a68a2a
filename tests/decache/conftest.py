"""A client of each test's own."""

import pytest

from tests.helpers.stores import Store
from zerrow_store.client.client import Client


@pytest.fixture
def client(store: Store) -> Client:
    return store.connected()
