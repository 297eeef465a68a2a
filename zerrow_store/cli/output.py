"""Output of rows as tables, JSON or YAML."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from zerrow_store.cli.rows import Column, Row
from zerrow_store.sizes import format_size

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("default", "table", "json", "yaml")
"""The default is a table."""

CLUSTERS = ("node", "node_ip", "object_ref")
"""Columns that only rows of clusters have."""

SHORT = 12
"""Of a node's id, the digits that tables show; Ray's log files have as many in their names."""

_WIDEST = 1 << 14


def print_rows(rows: Sequence[Row], known: Sequence[Column], form: str, *, detail: bool) -> None:
    """Print rows as an aligned table, with sizes in units; or as JSON or YAML, with plain numbers
    and all columns.
    """
    if form in ("json", "yaml"):
        _dump(list(rows), form)
        return
    shown = [column for column in columns_of(rows, known) if detail or not column.detail]
    click.echo(text_of(table(rows, shown)))


def columns_of(rows: Sequence[Row], known: Sequence[Column]) -> list[Column]:
    """Return the columns that rows have; without rows, those that are there outside of clusters."""
    if not rows:
        return [column for column in known if column.name not in CLUSTERS]
    return [column for column in known if column.name in rows[0]]


def table(rows: Iterable[Row], shown: Sequence[Column]) -> "Table":
    """Return a table of rows."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        made.add_column(column.name.replace("_", " ").upper(), no_wrap=True)
    for row in rows:
        made.add_row(*(Text(cell(row[column.name], column)) for column in shown))
    return made


def text_of(printed: "Table") -> str:
    """Return a table as text, in lines of any length: whoever copies an id wants it whole."""
    from rich.console import Console

    console = Console(width=_WIDEST, highlight=False, markup=False, color_system=None)
    with console.capture() as capture:
        console.print(printed)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def print_record(record: Row, *, sizes: Sequence[str], form: str) -> None:
    """Print one record, a line per field, or as a JSON or YAML object with plain numbers."""
    if form in ("json", "yaml"):
        _dump(record, form)
        return
    fields = list(_flat(record))
    width = max(len(name) for name, _ in fields) + 2
    for name, value in fields:
        is_size = name in sizes or name.endswith(" bytes")
        label = name.replace("_", " ") + ":"
        click.echo(f"{label:{width}}{cell(value, Column(name, is_size))}")


def cell(value: Any, column: Column) -> str:
    """Return a value as tables show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.is_size:
        return format_size(int(value))
    if column.name == "node":
        return str(value)[:SHORT]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _flat(record: Row) -> Iterator[tuple[str, Any]]:
    """Yield fields; those of a nested record with both names."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", each) for inner, each in _flat(value))
        else:
            yield name, value


def _dump(value: Any, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(value, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(value, sort_keys=False), nl=False)
