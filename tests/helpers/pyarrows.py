"""What some versions of pyarrow cannot do, for tests that are skipped beside them."""

import pyarrow as pa
import pyarrow.ipc
import pytest

PYARROW = int(pa.__version__.split(".")[0])


def _up_to(newest: int, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(newest >= PYARROW, reason=f"pyarrow {pa.__version__} {what}")


needs_views_in_parquet = _up_to(19, "writes no view types to Parquet")
needs_uniform_encryption = _up_to(19, "does not encrypt all columns with one key")
needs_types_by_option = _up_to(20, "has no `binary_type` and `list_type` of Parquet files")
needs_extensions_by_option = _up_to(
    20, "reads no extension types from Parquet, and cannot be told so"
)


def through_arrow_ipc(table: pa.Table) -> pa.Table:
    """Return what pyarrow's own IPC makes of a table."""
    sink = pa.BufferOutputStream()
    # Chunks may each have a dictionary of their own.
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def breaks_slices(read_back: pa.Table) -> bool:
    """Whether what this pyarrow's own IPC has returned is broken.

    Up to 19 it breaks some slices of nested lists: nothing can be compared with it then.
    """
    try:
        read_back.validate()
    except pa.ArrowInvalid:
        assert PYARROW <= 19, "pyarrow's own IPC breaks what it was given"
        return True
    return False
