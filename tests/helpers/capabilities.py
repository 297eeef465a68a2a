"""What some tests need of the machine. Where it is missing they are skipped, and the run's last
lines say which, and why.

The fixtures behind these marks look once, in the process that runs the tests: workers and sandboxes
import test modules, too.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.sandbox import capabilities

needs_sandboxes = pytest.mark.usefixtures("sandboxes_can_be_made")
needs_graphviz = pytest.mark.usefixtures("graphviz_is_there")
needs_networks = pytest.mark.usefixtures("networks_can_be_made")
needs_chromium = pytest.mark.usefixtures("chromium_is_there")
needs_prometheus = pytest.mark.usefixtures("prometheus_is_there")
needs_openssl = pytest.mark.usefixtures("openssl_is_there")

PROMETHEUS = shutil.which("prometheus") or str(
    Path(__file__).parents[2] / "build" / "prometheus" / "usr" / "bin" / "prometheus"
)
"""The machine's, or the one that tools/metrics.sh has unpacked."""


@pytest.fixture(scope="session")
def sandboxes_can_be_made() -> None:
    """With all that they have by default."""
    try:
        capabilities.namespaces()
        capabilities.system_call_filter()
        capabilities.limits()
    except SandboxUnavailableError as error:
        pytest.skip(f"no sandboxes here: {error}")


@pytest.fixture(scope="session")
def graphviz_is_there() -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")


@pytest.fixture(scope="session")
def networks_can_be_made() -> None:
    """Network namespaces, and links between them: as root."""
    name = f"zerrow-test-{os.getpid()}"
    for command in ["netns", "add", name], ["netns", "del", name]:
        try:
            subprocess.run(["ip", *command], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture(scope="session")
def chromium_is_there() -> None:
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is not installed (Debian's package: chromium)")


@pytest.fixture(scope="session")
def prometheus_is_there() -> None:
    if not os.access(PROMETHEUS, os.X_OK):
        pytest.skip("there is no prometheus: `make test-metrics` unpacks Debian's")


@pytest.fixture(scope="session")
def openssl_is_there() -> None:
    """To make certificates with."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
