"""Columns as torch tensors."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from zerrow_ray.reading import node_client
from zerrow_store.client.copy_on_write import writable

if TYPE_CHECKING:
    import torch

_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}
"""Arrow's names of types where torch has others."""


def to_torch(data: Any) -> "torch.Tensor | dict[str, torch.Tensor]":
    """Return columns as torch tensors on the CPU, without copying what lies in the store.

    The tensors are writable, and the caller's own: a write copies its page (4 KiB), and changes
    neither the table nor what others read. (torch has no read-only tensors. One that it makes from
    the store's memory by DLPack or `torch.from_numpy` looks writable, and a write to it ends the
    process with SIGSEGV.)

    Parameters
    ----------
    data
        A Table, RecordBatch, Array or ChunkedArray of integers, floats, or fixed-size lists of
        these, which become two-dimensional tensors. It must have no nulls.

    Returns
    -------
    torch.Tensor or dict
        A tensor for each column, by name; for an array, its tensor. A column is not copied if it
        has one chunk of 256 KiB or more, and comes from the store or the cache, or was computed by
        Arrow in this process. Several chunks are combined, which copies them.

    Raises
    ------
    TypeError
        A column has another type: cast it first.
    ValueError
        A column has nulls, which tensors cannot have (see `pyarrow.compute.fill_null`), or two
        columns have the same name.
    ImportError
        torch is not installed.

    Examples
    --------
    >>> tensors = zerrow_ray.to_torch(ray.get(ref).select(["x", "y"]))  # doctest: +SKIP
    >>> tensors["x"].mean()  # doctest: +SKIP
    """
    if isinstance(data, pa.Array | pa.ChunkedArray):
        (tensor,) = _tensors({"the array": data})
        return tensor
    if not isinstance(data, pa.Table | pa.RecordBatch):
        raise TypeError(f"Arrow data is needed, not {type(data).__name__}")
    names = data.schema.names
    if len(set(names)) < len(names):
        raise ValueError("columns of the same name")
    return dict(zip(names, _tensors(dict(zip(names, data.columns, strict=True))), strict=True))


def _tensors(columns: dict[str, Any]) -> "list[torch.Tensor]":
    import torch

    arrays = {name: _contiguous(column) for name, column in columns.items()}
    values = [_values(name, array) for name, array in arrays.items()]
    types = [_type(name, each.type) for name, each in zip(arrays, values, strict=True)]
    client = node_client()
    bytes_ = writable([_bytes(each) for each in values], None if client is None else client.name)
    tensors = []
    for array, one, dtype, memory in zip(arrays.values(), values, types, bytes_, strict=True):
        # torch takes no empty buffer
        flat = torch.frombuffer(memory, dtype=dtype) if len(one) else torch.empty(0, dtype=dtype)
        is_list = pa.types.is_fixed_size_list(array.type)
        tensors.append(flat.reshape(len(array), array.type.list_size) if is_list else flat)
    return tensors


def _contiguous(column: Any) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _values(name: str, array: pa.Array) -> pa.Array:
    """Return the numbers in an array, or in its lists."""
    values = array
    if pa.types.is_fixed_size_list(array.type) and not array.null_count:
        values = array.flatten()
    if values.null_count:
        raise ValueError(f"{name} has nulls, which a tensor has not: fill or drop them first")
    return values


def _type(name: str, type_: pa.DataType) -> "torch.dtype":
    import torch

    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        # For long, torch has had unsigned integers of 8 bits only.
        dtype = getattr(torch, _NAMES.get(str(type_), str(type_)), None)
        if dtype is not None:
            return dtype
    raise TypeError(f"{name}: torch has no tensors of {type_}: cast it first")


def _bytes(array: pa.Array) -> pa.Buffer:
    """Return the part of its buffer that an array shows."""
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    return (
        pa.py_buffer(b"") if data is None else data.slice(array.offset * width, len(array) * width)
    )
