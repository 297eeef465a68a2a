"""Jobs that bring the wheel along: by `ray job submit` to a Ray without it, by `uv run`."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.helpers.waiting import wait_until

JOB = Path(__file__).with_name("job.py")
TOKEN = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
"""What `ray start` asks for, where it is not said."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def head(environment) -> Iterator[str]:
    """A Ray in an environment of its own, which jobs can be submitted to at this address."""
    environment.install(f"ray[default]=={ray.__version__}")
    dashboard = free_port()
    with tempfile.TemporaryDirectory(prefix="zr-") as place:  # its sockets have short names
        command = [environment.root / "bin" / "ray", "start", "--head", "--block"]
        command += [f"--temp-dir={place}", "--node-ip-address=127.0.0.1", f"--port={free_port()}"]
        command += [f"--dashboard-port={dashboard}", "--num-cpus=2", "--disable-usage-stats"]
        command += [f"--object-store-memory={256 << 20}"]
        with open(Path(place) / "said", "w") as said:
            # Not where the sources are.
            process = subprocess.Popen(command, cwd=place, env=TOKEN, stdout=said, stderr=said)
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_until(lambda: process.poll() is not None or answers(address))
            assert process.poll() is None, (Path(place) / "said").read_text()
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version").close()
    except urllib.error.HTTPError:  # it asks for the token
        return True
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def test_a_submitted_job_brings_the_wheel_by_its_runtime_env(wheel, environment, head):
    submit = [environment.root / "bin" / "ray", "job", "submit", "--address", head]
    submit += ["--runtime-env-json", json.dumps({"pip": [str(wheel)]})]
    submit += ["--", "python", JOB, "--installed", "--submitted"]
    done = subprocess.run(submit, env=TOKEN, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def test_uv_brings_the_wheel(wheel, environment, tmp_path):
    environment.install("uv")
    command = [environment.root / "bin" / "uv", "run", "--no-project"]
    command += ["--python", environment.root / "bin" / "python"]
    command += ["--with", f"{wheel}[ray]", JOB, "--installed"]
    env = os.environ | {"UV_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
