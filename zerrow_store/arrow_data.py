"""The pyarrow classes that `zerrow_store.native._native.encode` takes."""

import pyarrow as pa

ARROW_DATA = (pa.Table, pa.RecordBatch, pa.ChunkedArray, pa.Array)
