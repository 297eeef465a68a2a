"""`zerrow cache list | drop | warm`: the columns that this machine has decoded."""

import argparse
import os
import time
from typing import Any

from zerrow_store.cli.output import print_rows
from zerrow_store.sizes import format_size

_HEADER = (
    "path",
    "column",
    "decoded_as",
    "row_groups",
    "bytes",
    "readers",
    "hits",
    "seconds_saved",
    "idle_seconds",
)


def add_commands(
    commands: Any, common: argparse.ArgumentParser, formatted: argparse.ArgumentParser
) -> None:
    """Add `cache` and what it can do; alone, it lists."""
    cache = commands.add_parser(
        "cache", parents=[common, formatted], help="columns of files that are decoded already"
    )
    cache.set_defaults(run=_list)
    # What was given before the action counts, unless it is given again after it.
    named = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    named.add_argument("--name", help="name of the store")
    shaped = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shaped.add_argument("--format", choices=["table", "json"])
    actions = cache.add_subparsers(metavar="ACTION")
    shown = actions.add_parser("list", parents=[named, shaped], help="show them (the default)")
    shown.set_defaults(run=_list)
    drop = actions.add_parser("drop", parents=[named], help="drop a file's; its readers keep them")
    drop.add_argument("path", help="a file, as `list` shows it, or all")
    drop.set_defaults(run=_drop)
    warm = actions.add_parser("warm", parents=[named], help="decode a Parquet file ahead")
    warm.add_argument("path", help="a file, a folder or a glob pattern")
    warm.add_argument(
        "--columns", type=lambda text: text.split(","), help="like a,b,c (default: all)"
    )
    warm.set_defaults(run=_warm)


def _list(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    now = time.time()
    for entry in Client(options.name).cache_list():
        key = (entry.path, entry.column, entry.variant)
        row = rows.setdefault(key, dict(zip(_HEADER, [*key, 0, 0, 0, 0, 0.0, now], strict=True)))
        row["row_groups"] += entry.parts
        row["bytes"] += entry.nbytes
        row["readers"] += entry.readers
        row["hits"] += entry.hits
        row["seconds_saved"] = round(row["seconds_saved"] + entry.hits * entry.seconds, 3)
        row["idle_seconds"] = min(row["idle_seconds"], round(now - entry.used, 1))
    print_rows(_HEADER, list(rows.values()), sizes=["bytes"], form=options.format)
    return 0


def _drop(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    client = Client(options.name)
    everything = options.path == "all"
    dropped = client.cache_drop(None if everything else options.path)
    if not (dropped or everything):
        dropped = client.cache_drop(os.path.abspath(options.path))
    print(f"Dropped {dropped} columns.")
    return 0


def _warm(options: argparse.Namespace) -> int:
    import zerrow_store

    client = zerrow_store.connect(options.name)
    started = time.monotonic()
    table = zerrow_store.read_parquet(options.path, columns=options.columns, client=client)
    seconds = time.monotonic() - started
    size = format_size(table.get_total_buffer_size())
    print(f"{table.num_columns} columns, {table.num_rows:,} rows, {size}: {seconds:.2f} s.")
    return 0
