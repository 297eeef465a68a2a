"""DeCache: every machine decodes a column once.

Readers of one file share the node store's decoded copy of its columns; whoever needs what is not
there decodes it in its own process, into its own arena, and hands it over by publication.
"""

from zerrow_store.decache.arrow_files import read_feather, read_ipc
from zerrow_store.decache.parquet import read_parquet
from zerrow_store.decache.text import read_csv, read_json

__all__ = ["read_csv", "read_feather", "read_ipc", "read_json", "read_parquet"]
