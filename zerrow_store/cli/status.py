"""`zerrow start | stop | status`: stores that run."""

import time
from pathlib import Path

import click

from zerrow_store.budget import default_budget, default_eviction
from zerrow_store.cli.doctor import huge_pages_of_arenas
from zerrow_store.cli.options import Shape, of_one_store, of_rows, of_stores
from zerrow_store.cli.output import print_record
from zerrow_store.cli.rows import columns
from zerrow_store.cli.stores import Selection
from zerrow_store.client.observe import ask, observe
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.policy import POLICIES, load_policy
from zerrow_store.protocol import messages as m
from zerrow_store.server.launch import launch
from zerrow_store.sizes import format_size, parse_size

_BYTES = "bytes_stored bytes_spilled bytes_shared bytes_reshared bytes_copied"
_DETAIL = "node_ip pid segments supervisors puts puts_waited eviction log"
STATUS = columns(
    f"node budget {_BYTES} objects clients {_DETAIL}", sizes=f"budget {_BYTES}", detail=_DETAIL
)


class _Size(click.ParamType[int]):
    name = "SIZE"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            size = value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return size or self.fail("a store needs more than 0 bytes", param, ctx)


@click.command(name="start")
@of_one_store
@click.option("--memory", type=_Size(), help="Memory budget, like 8GiB.")
@click.option("--eviction", help=f"Eviction policy: {', '.join(POLICIES)}, or module:Class.")
@click.option(
    "--log", type=click.Path(path_type=Path), help="Its log (default: in the XDG state directory)."
)
def start(name: str, memory: int | None, eviction: str | None, log: Path | None) -> None:
    """Start a store on this machine."""
    try:
        running = observe(name)
    except StoreUnavailableError:
        pass
    else:
        click.echo(f"The store {name} is running already (process {running.pid}).")
        return
    budget, policy = memory or default_budget(), eviction or default_eviction()
    load_policy(policy)
    launch(name, budget=budget, eviction=policy, log=log)
    click.echo(f"The store {name} runs in process {observe(name).pid}: {format_size(budget)}.")


@click.command(name="stop")
@of_one_store
def stop(name: str) -> None:
    """Stop a store of this machine. All its objects are lost."""
    pid = observe(name).pid
    ask(name, m.Shutdown())
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.02)
    click.echo(f"The store {name} has stopped.")


@click.command(name="status")
@of_stores
@of_rows
def status(selection: Selection, shape: Shape) -> None:
    """Show the stores' figures."""
    answers = selection.ask("stats")
    if selection.cluster is not None:
        shape.print([{**answer.place, **answer.body.as_dict()} for answer in answers], STATUS)
        return
    stats = answers[0].body.as_dict()
    try:
        huge_pages = huge_pages_of_arenas()
    except RuntimeError as error:
        huge_pages = f"none: {error}"
    sizes = [name for name in stats if name.startswith("bytes") or name == "budget"]
    fields = {"name": selection.name, **stats, "huge_pages": huge_pages}
    print_record(fields, sizes=sizes, form=shape.form)
