"""`zerrow memory | evictions`: what the store's memory is used for, and what had to go."""

import argparse
import time
from dataclasses import fields
from typing import Any

from zerrow_store.cli.output import print_fields, print_rows


def add_commands(
    commands: Any, common: argparse.ArgumentParser, formatted: argparse.ArgumentParser
) -> None:
    """Add both commands."""
    memory = commands.add_parser(
        "memory", parents=[common, formatted], help="what its memory is used for"
    )
    memory.add_argument("--by-segment", action="store_true", help="a row for each segment")
    memory.set_defaults(run=_memory)
    evictions = commands.add_parser(
        "evictions", parents=[common, formatted], help="what had to go, at which cost"
    )
    evictions.set_defaults(run=_evictions)


def _memory(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client
    from zerrow_store.protocol.reports import SegmentMemory

    client = Client(options.name)
    if options.by_segment:
        rows = [
            {**vars(each), "segment": each.segment.hex()} for each in client.memory_by_segment()
        ]
        header = [each.name for each in fields(SegmentMemory)]
        print_rows(header, rows, sizes=header[2:], form=options.format)
        return 0
    report = client.memory().as_dict()
    print_fields(report, sizes=list(report), form=options.format)
    return 0


def _evictions(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    now = time.time()
    rows = [
        {
            "age_seconds": round(now - each.when, 1),
            "way": each.way,
            "what": each.name,
            "bytes": each.nbytes,
            "expected_seconds": round(each.expected, 4),
            "seconds": round(each.seconds, 4),
            "returned": each.returned,
        }
        for each in Client(options.name).evictions()
    ]
    header = ["age_seconds", "way", "what", "bytes", "expected_seconds", "seconds", "returned"]
    print_rows(header, rows, sizes=["bytes"], form=options.format)
    return 0
