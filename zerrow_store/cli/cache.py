"""`zerrow cache list | drop | warm`: the columns that the machines have decoded."""

import os
import time
from typing import Any

import click

from zerrow_store.cli.options import Shape, of_a_store_here, of_rows, of_stores
from zerrow_store.cli.rows import Row, columns
from zerrow_store.cli.stores import Selection, local_store
from zerrow_store.client.observe import ask
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.reports import CacheEntry
from zerrow_store.sizes import format_size

_KEY = ("path", "column", "decoded_as")
CACHE = columns(
    f"node node_ip {' '.join(_KEY)} row_groups bytes readers hits seconds_saved idle_seconds",
    sizes="bytes",
    detail="node_ip",
)


class _Group(click.Group):
    """Lists if it is given no action. What is given before the action counts, unless it is given
    again after it.
    """

    def invoke(self, ctx: click.Context) -> Any:
        given = {
            name: value for name, value in ctx.params.items() if value not in (None, (), False)
        }
        ctx.default_map = dict.fromkeys(self.commands, given)
        ctx.params = {}
        return super().invoke(ctx)


@click.group(name="cache", cls=_Group, invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> None:
    """Show, drop or fill the cache of decoded columns."""
    if ctx.invoked_subcommand is None:
        with entries.make_context("list", [], parent=ctx) as of_list:
            entries.invoke(of_list)


@cache.command(name="list")
@of_stores
@of_rows
def entries(selection: Selection, shape: Shape) -> None:
    """List the cached columns (the default)."""
    shape.print(cache_rows(selection), CACHE)


@cache.command(name="drop")
@of_a_store_here
@click.argument("path")
def drop(name: str | None, path: str) -> None:
    """Drop the cached columns of PATH, as `list` prints it, or of `all` files, on this machine.

    Readers keep their views.
    """
    store = local_store(name)
    dropped = ask(store, m.CacheDrop(None if path == "all" else path))
    if not (dropped or path == "all"):
        dropped = ask(store, m.CacheDrop(os.path.abspath(path)))
    click.echo(f"Dropped {dropped} columns.")


@cache.command(name="warm")
@of_a_store_here
@click.option("--columns", "names", help="Columns, separated by commas (default: all).")
@click.argument("path")
def warm(name: str | None, names: str | None, path: str) -> None:
    """Decode Parquet files into this machine's cache. PATH: a file, a folder or a glob pattern."""
    from zerrow_store.connection import connect
    from zerrow_store.decache import read_parquet

    client = connect(local_store(name))
    started = time.monotonic()
    wanted = None if names is None else names.split(",")
    table = read_parquet(path, columns=wanted, client=client)
    seconds = time.monotonic() - started
    size = format_size(table.get_total_buffer_size())
    click.echo(f"{table.num_columns} columns, {table.num_rows:,} rows, {size}: {seconds:.2f} s.")


cache.params = [*entries.params]


def cache_rows(selection: Selection) -> list[Row]:
    """Return a row for each column of a file."""
    rows: dict[tuple[str, ...], Row] = {}
    now = time.time()
    for answer in selection.ask("cache_list"):
        entries_there: list[CacheEntry] = answer.body
        for entry in entries_there:
            key = (entry.path, entry.column, entry.variant)
            row = rows.setdefault(
                (*answer.place.values(), *key),
                {
                    **answer.place,
                    **dict(zip(_KEY, key, strict=True)),
                    **dict.fromkeys(("row_groups", "bytes", "readers", "hits"), 0),
                    "seconds_saved": 0.0,
                    "idle_seconds": now,
                },
            )
            row["row_groups"] += entry.parts
            row["bytes"] += entry.nbytes
            row["readers"] += entry.readers
            row["hits"] += entry.hits
            row["seconds_saved"] = round(row["seconds_saved"] + entry.hits * entry.seconds, 3)
            row["idle_seconds"] = min(row["idle_seconds"], round(now - entry.used, 1))
    return list(rows.values())
