"""A Grafana dashboard of the metrics, generated as Ray generates its own: panels are data, laid out
in rows of two.

Where Ray's endpoints are scraped, names have Ray's prefix; see docs/metrics.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PREFIXES = {"ray": "ray_", "store": ""}
"""What names begin with, by whose endpoints are scraped: Ray's, or those of `zerrow metrics`."""

_WIDTH, _HEIGHT = 12, 8
_WHERE = '{instance=~"$instance"}'


@dataclass(frozen=True)
class Target:
    """A query. expr: PromQL, in which {name} is a metric's name without `zerrow_`: the metric with
    the dashboard's filters.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A graph. unit: of Grafana's; stack: whether the areas of its queries add up."""

    title: str
    description: str
    unit: str
    targets: tuple[Target, ...]
    stack: bool = False
    only_ray: bool = False


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


ROWS = (
    Row(
        "Memory",
        (
            Panel(
                "Stored and spilled",
                "Bytes that objects refer to, in memory and on disk, each counted once; and the "
                "memory budget.",
                "bytes",
                (
                    Target("sum({stored_bytes})", "stored"),
                    Target("sum({spilled_bytes})", "spilled"),
                    Target("sum({budget_bytes})", "budget"),
                ),
            ),
            Panel(
                "Stored by node",
                "Bytes in memory that objects refer to, as a share of the node's budget.",
                "percentunit",
                (
                    Target(
                        "sum by (instance) ({stored_bytes}) / sum by (instance) ({budget_bytes})",
                        "{{instance}}",
                    ),
                ),
            ),
            Panel(
                "Published",
                "Published bytes per second: left in place (shared), referred to in another "
                "segment (reshared), or copied.",
                "Bps",
                (Target("sum by (way) (rate({published_bytes_total}[5m]))", "{{way}}"),),
                stack=True,
            ),
            Panel(
                "Objects",
                "Objects in the stores, by node.",
                "short",
                (Target("sum by (instance) ({objects})", "{{instance}}"),),
                stack=True,
            ),
        ),
    ),
    Row(
        "Pressure",
        (
            Panel(
                "Puts",
                "Publications per second that were taken, that waited for room, and that were "
                "refused, by error.",
                "ops",
                (
                    Target("sum(rate({puts_total}[5m]))", "taken"),
                    Target("sum(rate({puts_waited_total}[5m]))", "waited"),
                    Target("sum by (reason) (rate({puts_refused_total}[5m]))", "{{reason}}"),
                ),
            ),
            Panel(
                "Tables on Ray's own path",
                "Tables and frames per second that Ray copied, by reason. docs/metrics.md explains "
                "the reasons.",
                "ops",
                (Target("sum by (reason) (rate({fallbacks_total}[5m]))", "{{reason}}"),),
                stack=True,
                only_ray=True,
            ),
            Panel(
                "Evicted",
                "Evicted bytes per second, by way: decoded columns dropped, objects spilled, "
                "results of DAGs rolled back.",
                "Bps",
                (Target("sum by (way) (rate({evicted_bytes_total}[5m]))", "{{way}}"),),
                stack=True,
            ),
            Panel(
                "Cost of evictions",
                "Seconds per second that evictions have cost, and were expected to cost with one "
                "return of the bytes.",
                "short",
                (
                    Target("sum by (way) (rate({evictions_seconds_total}[5m]))", "{{way}}"),
                    Target(
                        "sum by (way) (rate({evictions_expected_seconds_total}[5m]))",
                        "{{way}}, expected",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Cache of decoded columns",
        (
            Panel(
                "Hits and misses",
                "Column chunks per second found in the cache, and decoded by their reader.",
                "ops",
                (
                    Target("sum(rate({cache_hits_total}[5m]))", "hits"),
                    Target("sum(rate({cache_misses_total}[5m]))", "misses"),
                ),
                stack=True,
            ),
            Panel(
                "Seconds of decoding",
                "Seconds of decoding per second, spent and saved by the cache.",
                "short",
                (
                    Target("sum(rate({cache_saved_seconds_total}[5m]))", "saved"),
                    Target("sum(rate({cache_decoding_seconds_total}[5m]))", "spent"),
                ),
            ),
        ),
    ),
    Row(
        "Between machines, and sandboxes",
        (
            Panel(
                "Transfers",
                "Bytes per second received from other machines, and sent to them (below zero).",
                "Bps",
                (
                    Target("sum by (instance) (rate({received_bytes_total}[5m]))", "{{instance}}"),
                    Target(
                        "-sum by (instance) (rate({sent_bytes_total}[5m]))", "{{instance}}, sent"
                    ),
                ),
            ),
            Panel(
                "Sandboxed calls",
                "Calls per second by the state of their sandbox; and failed calls.",
                "ops",
                (
                    Target("sum by (sandbox) (rate({sandbox_calls_total}[5m]))", "{{sandbox}}"),
                    Target(
                        "sum by (reason) (rate({sandbox_failed_calls_total}[5m]))",
                        "failed: {{reason}}",
                    ),
                ),
            ),
        ),
    ),
)


def dashboard(source: str) -> dict[str, Any]:
    """Return the dashboard as Grafana imports it. source: of `PREFIXES`."""
    prefix = PREFIXES[source]
    return {
        "uid": f"zerrow-{source}",
        "title": "Zerrow stores",
        "tags": ["zerrow"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_datasource(), _instance(f"{prefix}zerrow_objects")]},
        "panels": list(_laid_out(source)),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2}


def _instance(metric: str) -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Node",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f"label_values({metric}, instance)", "refId": "instance"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _laid_out(source: str) -> Iterator[dict[str, Any]]:
    number = y = 0
    for row in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": 2 * _WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        panels = [panel for panel in row.panels if source == "ray" or not panel.only_ray]
        for index, panel in enumerate(panels):
            number += 1
            x = _WIDTH * (index % 2)
            position = {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y + _HEIGHT * (index // 2)}
            yield {"id": number, "gridPos": position, **_panel(panel, PREFIXES[source])}
        y += _HEIGHT * -(-len(panels) // 2)


def _panel(panel: Panel, prefix: str) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    drawn = {
        "fillOpacity": 30 if panel.stack else 0,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
    }
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": drawn}, "overrides": []},
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": source,
                "expr": _query(target.expr, prefix),
                "legendFormat": target.legend,
            }
            for index, target in enumerate(panel.targets)
        ],
    }


def _query(expr: str, prefix: str) -> str:
    return expr.replace("{", f"{prefix}zerrow_").replace("}", _WHERE)
