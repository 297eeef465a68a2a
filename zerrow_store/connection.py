"""Connecting to a store of this machine."""

from zerrow_store import memory
from zerrow_store.client.client import Client


def connect(name: str = "default") -> Client:
    """Connect to the store `name`, and let this process allocate Arrow data where it can be shared.

    Raises StoreUnavailableError if no such store is running (`zerrow start`).
    """
    memory.start()
    return Client(name)
