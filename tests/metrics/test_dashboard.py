"""The Grafana dashboard: queries ask for what is exported, and panels lie where they fit."""

import json

import pytest

from tests.helpers.prometheus import names_in, queries
from tests.helpers.python import zerrow
from zerrow_store.metrics.dashboard import PREFIXES, dashboard
from zerrow_store.metrics.figures import METRICS

ONLY_RAY = {"zerrow_fallbacks_total"}  # of processes; tests/ray/test_metrics.py sees it exported


@pytest.mark.parametrize("source", PREFIXES)
def test_it_asks_for_what_is_exported(source: str) -> None:
    exported = {metric.name for metric in METRICS} | (ONLY_RAY if source == "ray" else set())
    asked = set().union(*(names_in(query) for query in queries(dashboard(source))))
    assert asked <= {PREFIXES[source] + name for name in exported}
    assert len(asked) > 15


@pytest.mark.parametrize("source", PREFIXES)
def test_a_counter_is_asked_for_its_rate_and_a_gauge_is_not(source: str) -> None:
    for panel in dashboard(source)["panels"]:
        for target in panel.get("targets", []):
            assert target["expr"].count("_total") == target["expr"].count("rate("), target
            assert target["expr"].count("{") == target["expr"].count('{instance=~"$instance"}')


@pytest.mark.parametrize("source", PREFIXES)
def test_panels_are_told_apart_and_do_not_overlap(source: str) -> None:
    panels = dashboard(source)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)
        assert (panel["type"] == "row") != bool(letters)


@pytest.mark.parametrize("source", PREFIXES)
def test_the_command_prints_it(source: str) -> None:
    assert json.loads(zerrow("dashboard", source).stdout) == dashboard(source)
