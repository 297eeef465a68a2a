"""`zerrow metrics | dashboard`: a store's figures for Prometheus, and how Grafana shows them."""

import argparse
import contextlib
import json
import threading
from typing import Any

from zerrow_store.metrics.dashboard import PREFIXES, dashboard


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add both commands."""
    metrics = commands.add_parser(
        "metrics", parents=[common], help="its figures in Prometheus's text format"
    )
    metrics.add_argument("--port", type=int, help="serve them on this port (0: any), for ever")
    metrics.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    metrics.set_defaults(run=_metrics)
    shown = commands.add_parser("dashboard", help="a Grafana dashboard of them, as JSON")
    shown.add_argument("source", choices=PREFIXES, help="whose endpoints Prometheus scrapes")
    shown.set_defaults(run=_dashboard)


def _metrics(options: argparse.Namespace) -> int:
    try:
        from zerrow_store.metrics import exporter
    except ImportError as error:
        raise ValueError(f"{error}: install prometheus-client, or zerrow-store[metrics]") from error
    if options.port is None:
        print(exporter.text(options.name), end="")
        return 0
    host, port = exporter.serve(options.name, options.host, options.port)
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    print(json.dumps(dashboard(options.source), indent=2))
    return 0
