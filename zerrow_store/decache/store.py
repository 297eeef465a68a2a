"""This process's connections to the stores whose caches it reads through."""

import logging

from zerrow_store import memory
from zerrow_store.client.client import Client
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.forks import Lock

logger = logging.getLogger("zerrow_store")

_lock = Lock()
_clients: dict[str, Client] = {}
_warned: set[str] = set()


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
            warn_once(error)
            return None
        return client


def warn_once(error: Exception) -> None:
    """Log why files are decoded without the cache, once per kind of error."""
    kind = type(error).__name__
    if kind not in _warned:
        _warned.add(kind)
        logger.warning("files are decoded without the cache: %s: %s", kind, error)
