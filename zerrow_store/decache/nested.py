"""Struct columns, cut into their leaves.

A unit is a path of struct fields down to the first field that is not a struct; a list or a map is
a unit with everything below it. Readers of `s.a` and of `s.b` share nothing, and a reader of `s`
reads both. Cutting and joining copy nothing: a struct's validity belongs to each of its units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

Path = tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """A unit of a file: its path, and the indices of its leaf columns."""

    path: Path
    indices: tuple[int, ...]


def leaves_of(field: pa.Field, first: int) -> list[Leaf]:
    """Return the units of a top-level field whose first leaf column in the file is `first`."""
    return _leaves(field.name, field.type, (), first)


def _leaves(name: str, type_: pa.DataType, above: Path, first: int) -> list[Leaf]:
    path = (*above, name)
    if not pa.types.is_struct(type_) or not _has_distinct_names(type_):
        return [Leaf(path, tuple(range(first, first + count_leaves(type_))))]
    leaves = []
    for child in type_:
        leaves += _leaves(child.name, child.type, path, first)
        first += count_leaves(child.type)
    return leaves


def count_leaves(type_: pa.DataType) -> int:
    """Return the number of leaf columns that a type has in a Parquet file."""
    if isinstance(type_, pa.BaseExtensionType):
        return count_leaves(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return count_leaves(type_.value_type)
    if type_.num_fields == 0:
        return 1
    return sum(count_leaves(type_.field(i).type) for i in range(type_.num_fields))


def cut(array: pa.Array, path: Path) -> pa.Array:
    """Return a column of the field path[0], reduced to the unit at `path`."""
    if len(path) == 1:
        return array
    child = cut(array.field(array.type.get_field_index(path[1])), path[1:])
    field = array.type.field(path[1]).with_type(child.type)
    return _struct(array, [child], [field])


def join(units: Mapping[Path, pa.Array], order: Sequence[Path]) -> pa.Array:
    """Join the units of a column. Its fields are in the order of their first path in `order`."""
    (first, *rest) = [units[path] for path in order]
    if not rest:
        return first
    children: dict[str, list[Path]] = {}
    for path in order:
        children.setdefault(path[1], []).append(path)
    arrays, fields = [], []
    for paths in children.values():
        below = {path[1:]: units[path].field(0) for path in paths}
        arrays.append(join(below, [path[1:] for path in paths]))
        fields.append(units[paths[0]].type.field(0).with_type(arrays[-1].type))
    return _struct(first, arrays, fields)


def _struct(like: pa.Array, children: list[pa.Array], fields: list[pa.Field]) -> pa.Array:
    """Return a struct array of these children, with the length and validity of `like`."""
    if like.offset == 0 and all(len(child) == len(like) for child in children):
        validity = like.buffers()[0]
        return pa.Array.from_buffers(
            pa.struct(fields), len(like), [validity], like.null_count, children=children
        )
    return pa.StructArray.from_arrays(children, fields=fields, mask=like.is_null())


def _has_distinct_names(type_: pa.DataType) -> bool:
    names = [child.name for child in type_]
    return len(set(names)) == len(names) > 0
