"""Connects this process to its node's store ahead of need."""

import os
import threading

from ray.exceptions import RayError

from zerrow_ray import ray_compat
from zerrow_ray.warnings import explain
from zerrow_store.errors import ZerrowError

_connecting: int | None = None


def connect_soon() -> None:
    """Connect this process to its node's store, without waiting: it is about to own results."""
    global _connecting
    if _connecting != os.getpid():
        _connecting = os.getpid()
        threading.Thread(target=_connect, name="zerrow-connect", daemon=True).start()


def _connect() -> None:
    from zerrow_ray.session import current_session

    try:
        with ray_compat.connection() as connected:
            if connected:
                current_session()
    except (ZerrowError, RayError) as error:
        explain(error)
