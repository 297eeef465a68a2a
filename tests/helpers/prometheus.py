"""What Prometheus does with an endpoint: over HTTP, with its own library's parser, or itself."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.capabilities import PROMETHEUS

Scraped = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


@contextmanager
def serving(store: str) -> Iterator[str]:
    """`zerrow metrics` of a store; yields the URL."""
    command = [sys.executable, "-m", "zerrow_store.cli.main", "metrics", "--name", store]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url)
        yield url
    finally:
        process.kill()
        process.communicate()


@contextmanager
def prometheus(scraped: str, folder: Path) -> Iterator["Prometheus"]:
    """A real Prometheus that scrapes a URL every second."""
    target = scraped.removeprefix("http://").removesuffix("/metrics")
    jobs = [{"job_name": "zerrow", "static_configs": [{"targets": [target]}]}]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # YAML, too
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", "--log.level=error"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    process = subprocess.Popen(command)
    try:
        yield Prometheus(f"http://{address}/api/v1/", process)
    finally:
        process.terminate()
        process.wait()


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self._url = url
        self._process = process

    def query(self, expr: str) -> list[float]:
        """Return the values that a query has now; none before it is ready."""
        return [float(each["value"][1]) for each in self._asked("query", query=expr)["result"]]

    def label_values(self, metric: str, label: str) -> list[str]:
        """Return what Grafana's `label_values` does."""
        return list(self._asked(f"label/{label}/values", **{"match[]": metric}))

    def is_ready(self) -> bool:
        """Whether it answers."""
        assert self._process.poll() is None, "Prometheus has ended"
        try:
            self._asked("labels")
        except urllib.error.HTTPError as error:
            return error.code != 503
        except urllib.error.URLError:
            return False
        return True

    def _asked(self, path: str, **arguments: str) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]


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
