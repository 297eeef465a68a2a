"""Ray Data's Parquet reads, served by each node's cache of decoded columns.

    ds = zerrow_ray.data.read_parquet("lineitem/")  # ray.data.read_parquet's arguments

or, for every `ray.data.read_parquet` of this process, `zerrow_ray.data.cache_reads()`, which
`ZERROW_DATA_CACHE=1` in the environment does without a change of code.
"""

from zerrow_ray.data.parquet import cache_reads, read_parquet

__all__ = ["cache_reads", "read_parquet"]
