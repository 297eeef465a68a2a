"""A zero-copy object store for Arrow data on one machine; `zerrow_ray` brings it to Ray.

    client = zerrow_store.connect()
    object_id = client.put(table)
    table = client.get(object_id)       # in any process of this user

What stands here is loaded at first use: the store's own processes need neither pyarrow nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerrow_store.client.client import Client
    from zerrow_store.connection import connect
    from zerrow_store.decache import read_csv, read_feather, read_ipc, read_json, read_parquet, scan
    from zerrow_store.errors import (
        ObjectExistsError,
        ObjectLostError,
        ObjectNotFoundError,
        StoreFullError,
        StoreUnavailableError,
        ZerrowError,
    )
    from zerrow_store.protocol.reports import ObjectInfo, StoreStats

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectLostError",
    "ObjectNotFoundError",
    "StoreFullError",
    "StoreStats",
    "StoreUnavailableError",
    "ZerrowError",
    "connect",
    "read_csv",
    "read_feather",
    "read_ipc",
    "read_json",
    "read_parquet",
    "scan",
]

_MODULES = {
    "connect": "zerrow_store.connection",
    "Client": "zerrow_store.client.client",
    "ObjectInfo": "zerrow_store.protocol.reports",
    "StoreStats": "zerrow_store.protocol.reports",
} | dict.fromkeys(
    ["read_csv", "read_feather", "read_ipc", "read_json", "read_parquet", "scan"],
    "zerrow_store.decache",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "zerrow_store.errors")), name)
