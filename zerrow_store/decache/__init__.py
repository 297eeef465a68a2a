"""DeCache: a machine decodes each column of a file once.

All readers of a file share the node store's decoded copy of its columns. A reader that needs other
columns decodes them in its own process, into its own arena, and publishes them.
"""

from zerrow_store.decache.arrow_files import read_feather, read_ipc
from zerrow_store.decache.dataset import scan
from zerrow_store.decache.parquet import read_parquet
from zerrow_store.decache.text import read_csv, read_json

__all__ = ["read_csv", "read_feather", "read_ipc", "read_json", "read_parquet", "scan"]
