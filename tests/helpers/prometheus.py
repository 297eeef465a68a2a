"""A Prometheus that scrapes: over HTTP, with its own library's parser."""

import re
import urllib.request
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Scraped = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


def scrape(url: str) -> Scraped:
    """What an endpoint says."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return parse(answer.read().decode())


def parse(text: str) -> Scraped:
    """What Prometheus's text format says."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(scraped: Scraped, name: str, **labels: str) -> float:
    """The one value of this name that has these labels, among others."""
    (found,) = (
        number
        for (each, having), number in scraped.items()
        if each == name and having >= labels.items()
    )
    return found


def names_in(text: str) -> set[str]:
    """Metrics' names in a query."""
    return set(re.findall(r"[a-z_]*zerrow_[a-z_]+", text))


def queries(made: dict[str, Any]) -> list[str]:
    """All that it asks Prometheus."""
    asked = [t["expr"] for panel in made["panels"] for t in panel.get("targets", [])]
    variables = [each["query"] for each in made["templating"]["list"]]
    return asked + [each["query"] for each in variables if isinstance(each, dict)]
