"""`zerrow metrics | dashboard`: commands for monitoring."""

import contextlib
import json
import threading

import click

from zerrow_store.cli.options import of_one_store
from zerrow_store.metrics.dashboard import PREFIXES, dashboard


@click.command(name="metrics")
@of_one_store
@click.option("--port", type=int, help="Serve metrics on this port (0: any) until interrupted.")
@click.option("--host", default="127.0.0.1", show_default=True, help="On this address.")
def metrics(name: str, port: int | None, host: str) -> None:
    """Print or serve a store's figures in Prometheus's text format."""
    try:
        from zerrow_store.metrics import exporter
    except ImportError as error:
        raise ValueError(f"{error}: install prometheus-client, or zerrow-store[metrics]") from error
    if port is None:
        click.echo(exporter.text(name), nl=False)
        return
    host, port = exporter.serve(name, host, port)
    click.echo(f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@click.command(name="dashboard")
@click.argument("source", type=click.Choice(list(PREFIXES)))
def print_dashboard(source: str) -> None:
    """Print a Grafana dashboard, as JSON, of what Prometheus scrapes from SOURCE."""
    click.echo(json.dumps(dashboard(source), indent=2))
