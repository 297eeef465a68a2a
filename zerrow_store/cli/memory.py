"""`zerrow memory | evictions`: the stores' memory."""

import time
from collections import defaultdict
from dataclasses import fields

import click

from zerrow_store.cli.objects import object_rows
from zerrow_store.cli.options import Shape, of_rows, of_stores
from zerrow_store.cli.origins import COLUMNS, add_origins
from zerrow_store.cli.output import print_record
from zerrow_store.cli.rows import Row, Wanted, columns
from zerrow_store.cli.stores import Selection
from zerrow_store.protocol.reports import MemoryReport, SegmentMemory

_KINDS = " ".join(field.name for field in fields(MemoryReport))
_OF_SEGMENTS = " ".join(field.name for field in fields(SegmentMemory)[2:])
KINDS = columns(
    f"node node_ip {_KINDS}", sizes=_KINDS, detail="node_ip high_watermark low_watermark"
)
SEGMENTS = columns(f"node node_ip segment pid {_OF_SEGMENTS}", sizes=_OF_SEGMENTS, detail="node_ip")
EVICTIONS = columns(
    "node node_ip age_seconds way what bytes expected_seconds seconds returned",
    sizes="bytes",
    detail="node_ip",
)
GROUPS = {"node": "node", "process": "pid", **{name: name for name in COLUMNS}}
"""By which objects are grouped: the column of each."""

_CACHED = "(cache)"
"""In place of a job or a function: decoded columns are everybody's."""

_SIZES = "bytes in_use idle bytes_spilled"


@click.command(name="memory")
@of_stores
@of_rows
@click.option("--by-segment", is_flag=True, help="A row for each segment: process or file.")
@click.option("--group-by", type=click.Choice(list(GROUPS)), help="Sum the objects by this.")
def memory(selection: Selection, shape: Shape, by_segment: bool, group_by: str | None) -> None:
    """Show what the stores' memory is used for.

    Bytes that several objects share count in the group of each.
    """
    if by_segment and group_by:
        raise click.UsageError("--by-segment and --group-by cannot be combined.")
    if group_by:
        rows = group_rows(selection, group_by)
        wanted = shape.wanted
        by_size = Wanted(wanted.conditions, wanted.limit, wanted.sort_by or "bytes", wanted.detail)
        column = GROUPS[group_by]
        Shape(shape.form, by_size).print(rows, columns(f"{column} objects {_SIZES}", sizes=_SIZES))
    elif by_segment:
        shape.print(segment_rows(selection), SEGMENTS)
    elif selection.cluster is None:
        (report,) = selection.ask("memory")
        kinds = report.body.as_dict()
        print_record(kinds, sizes=list(kinds), form=shape.form)
    else:
        rows = [{**answer.place, **answer.body.as_dict()} for answer in selection.ask("memory")]
        shape.print(rows, KINDS)


@click.command(name="evictions")
@of_stores
@of_rows
def evictions(selection: Selection, shape: Shape) -> None:
    """List the newest evictions, and their cost."""
    shape.print(eviction_rows(selection), EVICTIONS)


def group_rows(selection: Selection, group_by: str) -> list[Row]:
    """Return a row for each group of objects. Raises ValueError where groups are not known."""
    if selection.cluster is None and group_by != "process":
        raise ValueError(f"only a cluster knows of a {group_by}; without one: --group-by process")
    rows, column = object_rows(selection), GROUPS[group_by]
    if column in COLUMNS:
        add_origins(rows, selection, Wanted(sort_by=column))
    groups: defaultdict[str | int, list[Row]] = defaultdict(list)
    for row in rows:
        of_nobody = column in COLUMNS and row["cached"]
        groups[_CACHED if of_nobody else row[column]].append(row)
    return [{column: group, **_sums(members)} for group, members in groups.items()]


def _sums(rows: list[Row]) -> Row:
    return {
        "objects": len(rows),
        "bytes": sum(row["bytes"] for row in rows),
        "in_use": sum(row["bytes"] for row in rows if row["holds"]),
        "idle": sum(row["bytes"] for row in rows if not row["holds"]),
        "bytes_spilled": sum(row["bytes_spilled"] for row in rows),
    }


def segment_rows(selection: Selection) -> list[Row]:
    """Return a row for each segment."""
    return [
        {**answer.place, **vars(each), "segment": each.segment.hex()}
        for answer in selection.ask("memory_by_segment")
        for each in answer.body
    ]


def eviction_rows(selection: Selection) -> list[Row]:
    """Return a row for each of the newest evictions."""
    now = time.time()
    return [
        {
            **answer.place,
            "age_seconds": round(now - each.when, 1),
            "way": each.way,
            "what": each.name,
            "bytes": each.nbytes,
            "expected_seconds": round(each.expected, 4),
            "seconds": round(each.seconds, 4),
            "returned": each.returned,
        }
        for answer in selection.ask("evictions")
        for each in answer.body
    ]
