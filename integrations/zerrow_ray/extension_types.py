"""Which data a reader restores from a message with the type that Ray would give it.

A message describes types as Arrow's IPC format does: an extension type by its name. A reader that
has not registered the name gets the storage type. Ray does the same with the schema of a Table or a
RecordBatch (`ray/_private/arrow_serialization.py`), but it pickles the type of a ChunkedArray or an
Array, and the pickle carries the class.
"""

from typing import Any

import pyarrow as pa

_KNOWN_EVERYWHERE = (
    pa.Bool8Type,
    pa.FixedShapeTensorType,
    pa.JsonType,
    pa.OpaqueType,
    pa.UuidType,
)
"""Arrow's own: libarrow registers them when it is loaded."""


def needs_its_class(value: Any) -> bool:
    """Return whether `value` has to be pickled so that its reader gets its type.

    Parameters
    ----------
    value : pyarrow.Table, pyarrow.RecordBatch, pyarrow.ChunkedArray or pyarrow.Array

    Examples
    --------
    >>> import pyarrow as pa
    >>> needs_its_class(pa.nulls(3, pa.uuid()))
    False
    """
    if isinstance(value, pa.Table | pa.RecordBatch):
        return False
    return is_lost_in_schemas(value.type)


def is_lost_in_schemas(kind: pa.DataType) -> bool:
    """Return whether a type is, or has in it, an extension type that a schema in Arrow's IPC
    format does not bring to every reader.
    """
    if isinstance(kind, pa.BaseExtensionType):
        # Of an extension of an extension the format has the outer one's name only.
        is_nested = isinstance(kind.storage_type, pa.BaseExtensionType)
        known = isinstance(kind, _KNOWN_EVERYWHERE) and not is_nested
        return not known or is_lost_in_schemas(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_lost_in_schemas(kind.value_type)
    return any(is_lost_in_schemas(kind.field(i).type) for i in range(kind.num_fields))
