"""The stores' entries in Ray's key-value store: the agents' locations, and the shared secret."""

import os
from collections.abc import Callable

from zerrow_store.transfer.security import Security, Tls

SECRET_KEY = b"zerrow_ray:transfer_secret"


NOWHERE = b""
"""In place of the location of an agent whose store has ended."""


def location_key(node_id: str) -> bytes:
    """Return the key under which the location of a node's agent is kept."""
    return b"zerrow_ray:location:" + node_id.encode()


def security(get: Callable[[bytes], bytes | None]) -> Security:
    """Return the cluster's secret, made by the first agent, and Ray's own TLS settings.

    get: reads the key-value store.
    """
    return Security(secret=get(SECRET_KEY) or b"", tls=_tls())


def _tls() -> Tls | None:
    # As in ray._common.tls_utils.
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    return Tls(
        certificate=os.environ["RAY_TLS_SERVER_CERT"],
        key=os.environ["RAY_TLS_SERVER_KEY"],
        authority=os.environ["RAY_TLS_CA_CERT"],
    )
