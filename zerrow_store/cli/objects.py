"""`zerrow objects | copies`: lists of objects."""

import time
from collections.abc import Iterator

import click

from zerrow_store.cli.options import Shape, of_rows, of_stores
from zerrow_store.cli.origins import COLUMNS, add_origins, reference
from zerrow_store.cli.rows import Row, columns
from zerrow_store.cli.stores import Answer, Selection
from zerrow_store.protocol.reports import CopiedTable, ObjectInfo

OBJECTS = columns(
    "node node_ip object object_ref name bytes bytes_spilled age_seconds holds transient pid "
    f"cached copy {' '.join(COLUMNS)}",
    sizes="bytes bytes_spilled",
    detail=f"node_ip name bytes_spilled pid cached copy {' '.join(COLUMNS)}",
)
COPIES = columns(
    f"node node_ip age_seconds object object_ref pid copied {' '.join(COLUMNS)}",
    sizes="copied",
    detail=f"node_ip {' '.join(COLUMNS)}",
)


@click.command(name="objects")
@of_stores
@of_rows
def objects(selection: Selection, shape: Shape) -> None:
    """List what the stores hold."""
    rows = object_rows(selection)
    add_origins(rows, selection, shape.wanted)
    shape.print(rows, OBJECTS)


@click.command(name="copies")
@of_stores
@of_rows
def copies(selection: Selection, shape: Shape) -> None:
    """List the newest tables of which 1 MiB or more was copied."""
    rows = copy_rows(selection)
    add_origins(rows, selection, shape.wanted)
    shape.print(rows, COPIES)


def object_rows(selection: Selection) -> list[Row]:
    """Return a row for each object, and for each machine's copy of one."""
    answers = selection.ask("list")
    infos: list[tuple[Answer, ObjectInfo]]
    infos = [(answer, info) for answer in answers for info in answer.body]
    # Only the machine where an object was published knows what carries it.
    references = {info.object_id: info.reference for _, info in infos if info.reference}
    now = time.time()
    return [
        {
            **answer.place,
            "object": info.object_id.hex(),
            **reference(answer, references.get(info.object_id, b"")),
            "name": info.name or "",
            "bytes": info.nbytes,
            "bytes_spilled": info.bytes_spilled,
            "age_seconds": round(now - info.created, 1),
            "holds": info.holds,
            "transient": info.transient,
            "pid": info.pid,
            "cached": info.cached,
            "copy": info.copy,
        }
        for answer, info in infos
    ]


def copy_rows(selection: Selection) -> list[Row]:
    """Return a row for each publication of which much had to be copied."""
    return list(_copy_rows(selection, time.time()))


def _copy_rows(selection: Selection, now: float) -> Iterator[Row]:
    for answer in selection.ask("copied_tables"):
        copies: list[CopiedTable] = answer.body
        for copy in copies:
            yield {
                **answer.place,
                "age_seconds": round(now - copy.when, 1),
                "object": copy.object_id.hex(),
                **reference(answer, copy.reference),
                "pid": copy.pid,
                "copied": copy.copied,
            }
