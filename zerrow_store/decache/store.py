"""This process's connections to the stores whose caches it reads through."""

import logging

from zerrow_store import memory
from zerrow_store.client.client import Client
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.once import warn_once

logger = logging.getLogger("zerrow_store")

_lock = Lock()
_clients: dict[str, Client] = {}


def default_client(name: str = "default") -> Client | None:
    """Return a connection to the store `name`; None, with one warning, if it does not run."""
    with _lock:
        client = _clients.get(name)
        if client is not None and not client.closed:
            return client
        memory.start()
        try:
            client = _clients[name] = Client(name)
        except StoreUnavailableError as error:
            warn_uncached(error)
            return None
        return client


def warn_uncached(error: Exception) -> None:
    """Log why files are decoded without the cache, once for each type of error."""
    warn_once(logger, "files are decoded without the cache", error)
