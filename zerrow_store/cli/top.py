"""`zerrow top`: what the stores do, live, in a terminal."""

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from zerrow_store.cli.memory import segment_rows
from zerrow_store.cli.options import of_stores
from zerrow_store.cli.output import cell, columns_of, table
from zerrow_store.cli.rows import Column, Row, columns
from zerrow_store.cli.stores import Answer, Selection
from zerrow_store.errors import ZerrowError
from zerrow_store.protocol.reports import StoreStats

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_RATES = ("shared", "reshared", "copied", "evicted", "received")
STORES = columns(
    f"node used stored spilled objects clients {' '.join(_RATES)} hits",
    sizes="stored spilled",
)
PROCESSES = columns(
    "node pid resident in_use idle unpublished", sizes="resident in_use idle unpublished"
)


@dataclass(frozen=True)
class Reading:
    """The stores' running counts at a moment, by node."""

    when: float
    counts: dict[str, dict[str, float]]


@click.command(name="top")
@of_stores
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds."
)
def top(selection: Selection, interval: float) -> None:
    """Show live what the stores do, the processes with most memory below; ends with control-C.

    Rates are in bytes a second, or decoded column chunks found in the cache.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        raise click.UsageError("top wants a terminal; `zerrow status` prints the figures once.")
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        last = _reading(selection.ask("stats"))
        while True:
            screen: RenderableType
            try:
                answers = selection.ask("stats")
                screen = _screen(selection, answers, last, console.height)
                last = _reading(answers)
            except ZerrowError as error:  # the store is being started again, for one
                screen = str(error)
            live.update(screen, refresh=True)
            time.sleep(interval)


def _screen(selection: Selection, answers: list[Answer], last: Reading, height: int) -> "Group":
    from rich.console import Group

    now = _reading(answers)
    stores = store_rows(answers, last, now)
    most = max(0, height - len(stores) - 4)
    processes = process_rows(selection)[:most]
    title = f"zerrow top, {time.strftime('%H:%M:%S')}; control-C ends it"
    return Group(
        title,
        table(stores, columns_of(stores, STORES)),
        "",
        table(processes, columns_of(processes, PROCESSES)),
    )


def store_rows(answers: list[Answer], last: Reading, now: Reading) -> list[Row]:
    """Return a row for each store, with the rates between two readings."""
    rows = []
    seconds = max(now.when - last.when, 1e-3)
    for answer in answers:
        stats, key = answer.body, answer.node_id
        before = last.counts.get(key, now.counts[key])
        # Counts begin again with the server.
        rates = {
            name: max(0.0, count - before[name]) / seconds
            for name, count in now.counts[key].items()
        }
        rows.append(
            {
                **answer.place,
                "used": f"{stats.bytes_stored / stats.budget:.0%} of {_size(stats.budget)}",
                "stored": stats.bytes_stored,
                "spilled": stats.bytes_spilled,
                "objects": stats.objects,
                "clients": stats.clients,
                **{name: f"{_size(rates[name])}/s" for name in _RATES},
                "hits": f"{rates['hits']:.0f}/s",
            }
        )
    return rows


def process_rows(selection: Selection) -> list[Row]:
    """Return a row for each process with an arena, the largest first."""
    rows = [
        {
            **{name: row[name] for name in ("node", "pid", "resident") if name in row},
            "in_use": row["objects_in_use"] + row["cache_in_use"],
            "idle": row["objects_idle"] + row["cache_idle"],
            "unpublished": row["unpublished"],
        }
        for row in segment_rows(selection)
        if row["pid"]
    ]
    return sorted(rows, key=lambda row: -row["resident"])


def _reading(answers: list[Answer]) -> Reading:
    return Reading(time.monotonic(), {each.node_id: _counts(each) for each in answers})


def _counts(answer: Answer) -> dict[str, float]:
    stats: StoreStats = answer.body
    return {
        "shared": stats.bytes_shared,
        "reshared": stats.bytes_reshared,
        "copied": stats.bytes_copied,
        "evicted": sum(totals.bytes for totals in stats.evicted.values()),
        "received": stats.transfers.received_bytes,
        "hits": stats.cache.hits,
    }


def _size(nbytes: float) -> str:
    return cell(nbytes, Column("", is_size=True))
