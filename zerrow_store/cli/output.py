"""Tables and JSON on standard output."""

import json
from collections.abc import Sequence
from typing import Any

from zerrow_store.sizes import format_size


def print_rows(
    header: Sequence[str], rows: Sequence[dict[str, Any]], *, sizes: Sequence[str], form: str
) -> None:
    """Print rows as an aligned table with `sizes` in units, or as a JSON array with plain
    numbers.
    """
    if form == "json":
        print(json.dumps(list(rows), indent=2))
        return
    cells = [[name.replace("_", " ").upper() for name in header]]
    cells += [[_cell(row[name], name in sizes) for name in header] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: dict[str, Any], *, sizes: Sequence[str], form: str) -> None:
    """Print one record, a line per field, or as a JSON object with plain numbers."""
    if form == "json":
        print(json.dumps(fields, indent=2))
        return
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        print(f"{name.replace('_', ' ') + ':':{width}}{_cell(value, name in sizes)}")


def _cell(value: Any, is_size: bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_size(value) if is_size else str(value)
