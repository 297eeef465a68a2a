"""pandas and polars frames by reference.

pandas frames are pickled with protocol 5, whose out-of-band buffers become references: the frame
comes back exactly, index, attributes and dtypes included. polars frames go through Arrow.
"""

import pickle
from typing import Any

import pyarrow as pa

from zerrow_ray.config import plugin_config
from zerrow_ray.messages import publish
from zerrow_store.native import _native

Reduced = tuple[Any, ...]


def reduce_pandas(frame: Any) -> Reduced | None:
    """Reduce a pandas DataFrame, or decline it: too small, or holding Python objects."""
    if not all(_is_buffer_backed(dtype) for dtype in frame.dtypes):
        return None
    if int(frame.memory_usage(index=False).sum()) < plugin_config().threshold:
        return None
    buffers: list[pickle.PickleBuffer] = []
    header = pickle.dumps(frame, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    return publish(lambda: _native.encode_buffers(header, raw, move=True), _restore_pickle)


def reduce_polars(frame: Any) -> Reduced | None:
    """Reduce a polars DataFrame, or decline it: too small, or with dtypes that Arrow has not."""
    if frame.estimated_size() < plugin_config().threshold:
        return None
    if _from_arrow(frame.clear().to_arrow()).schema != frame.schema:
        return None
    table = frame.to_arrow()
    return publish(lambda: _native.encode(table, move=True), _from_arrow)


def _is_buffer_backed(dtype: Any) -> bool:
    import pandas as pd

    if isinstance(dtype, pd.ArrowDtype):
        return True
    if isinstance(dtype, pd.StringDtype):
        return bool(dtype.storage == "pyarrow")
    return getattr(dtype, "kind", "O") in "biufcmM" and not isinstance(
        dtype, pd.api.extensions.ExtensionDtype
    )


def _restore_pickle(parts: tuple[bytes, list[pa.Buffer]]) -> Any:
    header, buffers = parts
    return pickle.loads(header, buffers=buffers)


def _from_arrow(table: pa.Table) -> Any:
    import polars as pl

    return pl.from_arrow(table)
