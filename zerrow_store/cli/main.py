"""`zerrow start | stop | status | objects | memory | evictions | cache | metrics | dashboard |
doctor`.
"""

import argparse
import sys
import time
from pathlib import Path

from zerrow_store.budget import default_budget, default_eviction
from zerrow_store.cli import cache, memory, metrics
from zerrow_store.cli.doctor import examine, huge_pages_of_arenas
from zerrow_store.cli.output import print_fields, print_rows
from zerrow_store.errors import StoreUnavailableError, ZerrowError
from zerrow_store.policy import POLICIES, load_policy
from zerrow_store.server.launch import launch
from zerrow_store.sizes import format_size, parse_size


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 1 when it could not do what it was asked."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ZerrowError, OSError, ValueError) as error:
        print(f"zerrow: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--name", default="default", help="name of the store (default: %(default)s)"
    )
    formatted = argparse.ArgumentParser(add_help=False)
    formatted.add_argument("--format", choices=["table", "json"], default="table")
    parser = argparse.ArgumentParser(prog="zerrow", description="The node store of this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    start = commands.add_parser("start", parents=[common], help="start a store")
    start.add_argument("--memory", type=parse_size, help="what it may hold, like 8GiB")
    start.add_argument("--eviction", help=f"what goes when it is full: {', '.join(POLICIES)}")
    start.add_argument("--log", type=Path, help="its log (default: in the XDG state directory)")
    start.set_defaults(run=_start)
    stop = commands.add_parser("stop", parents=[common], help="stop it; its objects are gone")
    stop.set_defaults(run=_stop)
    status = commands.add_parser("status", parents=[common, formatted], help="its figures")
    status.set_defaults(run=_status)
    objects = commands.add_parser("objects", parents=[common, formatted], help="what it holds")
    objects.set_defaults(run=_objects)
    memory.add_commands(commands, common, formatted)
    cache.add_commands(commands, common, formatted)
    metrics.add_commands(commands, common)
    doctor = commands.add_parser("doctor", parents=[formatted], help="what this machine can do")
    doctor.set_defaults(run=_doctor)
    return parser


def _start(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    try:
        running = Client(options.name).stats()
    except StoreUnavailableError:
        pass
    else:
        print(f"The store {options.name} is running already (process {running.pid}).")
        return 0
    budget = options.memory or default_budget()
    eviction = options.eviction or default_eviction()
    load_policy(eviction)
    launch(options.name, budget=budget, eviction=eviction, log=options.log)
    started = Client(options.name).stats()
    print(f"The store {options.name} runs in process {started.pid}: {format_size(budget)}.")
    return 0


def _stop(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    client = Client(options.name)
    pid = client.stats().pid
    client.shutdown()
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    print(f"The store {options.name} has stopped.")
    return 0


def _status(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    stats = Client(options.name).stats().as_dict()
    sizes = [name for name in stats if name.startswith("bytes") or name == "budget"]
    try:
        huge_pages = huge_pages_of_arenas()
    except RuntimeError as error:
        huge_pages = f"none: {error}"
    fields = {"name": options.name, **stats, "huge_pages": huge_pages}
    print_fields(fields, sizes=sizes, form=options.format)
    return 0


def _objects(options: argparse.Namespace) -> int:
    from zerrow_store.client.client import Client

    rows = [
        {
            "object": info.object_id.hex(),
            "bytes": info.nbytes,
            "age_seconds": round(time.time() - info.created, 1),
            "holds": info.holds,
            "transient": info.transient,
        }
        for info in Client(options.name).list()
    ]
    header = ["object", "bytes", "age_seconds", "holds", "transient"]
    print_rows(header, rows, sizes=["bytes"], form=options.format)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    checks = examine()
    rows = [{"check": c.name, "ok": c.ok, "finding": c.finding} for c in checks]
    print_rows(["check", "ok", "finding"], rows, sizes=[], form=options.format)
    return 0 if all(check.ok for check in checks if check.needed) else 1


if __name__ == "__main__":
    sys.exit(main())
