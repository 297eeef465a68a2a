"""The fields that a read needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from zerrow_store.decache.errors import UncacheableFileError
from zerrow_store.decache.nested import Path


@dataclass(frozen=True)
class Projection:
    """Columns, filter, and the fields that these refer to.

    Attributes
    ----------
    fields
        The needed top-level fields in the schema's order; for a struct, the paths below which
        something is needed, or None for all of it.
    schema
        The schema of these fields.
    columns, filter
        Of the read; None for all columns, and for no filter.
    """

    fields: Mapping[str, list[Path] | None]
    schema: pa.Schema
    columns: list[str] | None
    filter: ds.Expression | None

    @classmethod
    def of(
        cls, schema: pa.Schema, columns: list[str] | None, condition: ds.Expression | None
    ) -> "Projection":
        """Return the projection of a read. Of a column that is not understood, all is needed.

        Raises
        ------
        UncacheableFileError
            Fields have the same name.
        """
        if len(set(schema.names)) < len(schema.names):
            raise UncacheableFileError("fields with the same name")
        needed: dict[str, list[Path] | None] = {}
        for column in columns if columns is not None else schema.names:
            path = _resolve(schema, column)
            if path is None:
                needed = dict.fromkeys(schema.names)
                break
            _add(needed, path)
        if condition is not None:
            for name in _fields_of(condition, schema):
                needed[name] = None
        fields = {name: needed[name] for name in schema.names if name in needed}
        kept = pa.schema([schema.field(name) for name in fields], schema.metadata)
        return cls(fields, kept, columns, condition)

    def apply(self, table: pa.Table) -> pa.Table:
        """Filter and project a table of the needed fields, as pyarrow's datasets do."""
        selected = self._selected(table)
        if selected is not None:
            return selected
        return ds.dataset(table).to_table(columns=self._names(), filter=self.filter)

    def batches(self, table: pa.Table, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Return the batches of the projected table.

        Before the filter, a batch has `batch_size` rows, or a chunk's if that is shorter.
        """
        selected = self._selected(table)
        if selected is not None and selected.num_columns:
            return iter(selected.to_batches(max_chunksize=batch_size))
        scanner = ds.dataset(table).scanner(
            columns=self._names(), filter=self.filter, batch_size=batch_size
        )
        return iter(scanner.to_batches())

    def _selected(self, table: pa.Table) -> pa.Table | None:
        """Return the projected table; None if that takes pyarrow's engine."""
        if self.filter is not None:
            return None
        names = list(self.fields) if self.columns is None else self.columns
        if len(set(names)) < len(names) or not set(names) <= set(self.fields):
            return None
        return table if names == table.column_names else table.select(names)

    def _names(self) -> list[str]:
        return self.schema.names if self.columns is None else self.columns


def _resolve(schema: pa.Schema, column: str) -> Path | None:
    """Return the path of the field that a dataset's scanner finds by this name; None if unclear."""
    if column in schema.names:
        return (column,)
    path = tuple(column.split("."))
    type_ = pa.struct(list(schema))
    for name in path:
        if not pa.types.is_struct(type_) or type_.get_field_index(name) < 0:
            return None
        type_ = type_.field(name).type
    return path


def _add(needed: dict[str, list[Path] | None], path: Path) -> None:
    name = path[0]
    if len(path) == 1:
        needed[name] = None
    elif name not in needed:
        needed[name] = [path]
    elif (paths := needed[name]) is not None:
        paths.append(path)


def _fields_of(condition: ds.Expression, schema: pa.Schema) -> list[str]:
    """Return the top-level fields that an expression refers to.

    pyarrow does not tell, but refuses to bind an expression to a schema without such a field.

    Raises
    ------
    pyarrow.ArrowInvalid
        The expression does not fit the schema.
    """
    _bind(condition, schema)
    text = str(condition)
    if "FieldPath" in text:
        return list(schema.names)
    fields = []
    for i, field in enumerate(schema):
        if field.name in text or not field.name.isidentifier():
            try:
                _bind(condition, schema.remove(i))
            except (pa.ArrowException, ValueError):
                fields.append(field.name)
    return fields


def _bind(condition: ds.Expression, schema: pa.Schema) -> None:
    nothing = ds.FileSystemDataset([], schema, ds.ParquetFileFormat(), pafs.LocalFileSystem())
    nothing.scanner(filter=condition)
