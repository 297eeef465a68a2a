"""Columns that say where an object's ObjectRef comes from."""

from collections.abc import Iterable

from zerrow_store.cli.rows import Row, Wanted
from zerrow_store.cli.stores import Answer, Origin, Selection

COLUMNS = ("job", "function", "call_site")
"""What a cluster knows of a reference."""


def add_origins(rows: Iterable[Row], selection: Selection, wanted: Wanted) -> None:
    """Add these columns to rows that have an `object_ref`, if anybody looks at them."""
    if selection.cluster is None or not wanted.needs(*COLUMNS):
        return
    rows = list(rows)
    references = {bytes.fromhex(row["object_ref"]) for row in rows}
    origins = selection.origins(references, sites=wanted.needs("call_site"))
    for row in rows:
        row |= vars(origins.get(bytes.fromhex(row["object_ref"]), Origin()))


def reference(answer: Answer, of: bytes) -> dict[str, str]:
    """Return the column of what carries an object; in clusters alone there is such."""
    return {} if answer.node is None else {"object_ref": of.hex()}
