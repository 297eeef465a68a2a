"""Extension types: whose data has to be pickled so that the reader gets the same type as from Ray.

A message describes types as Arrow's IPC format does, an extension type by its name. A reader that
has not registered the name gets the storage type. Ray does the same with the schema of a Table or
RecordBatch (`ray/_private/arrow_serialization.py`). But it pickles the type of a ChunkedArray or
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
    """Return whether `value` has to be pickled for the reader to get its type.

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
    """Return whether a type is or contains an extension type that some readers would not restore
    from a schema in Arrow's IPC format.
    """
    if isinstance(kind, pa.BaseExtensionType):
        # Of nested extension types, the format keeps only the name of the outer one.
        is_nested = isinstance(kind.storage_type, pa.BaseExtensionType)
        known = isinstance(kind, _KNOWN_EVERYWHERE) and not is_nested
        return not known or is_lost_in_schemas(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_lost_in_schemas(kind.value_type)
    return any(is_lost_in_schemas(kind.field(i).type) for i in range(kind.num_fields))
