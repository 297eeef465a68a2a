"""Random DAGs while everything around them is killed: some seconds of the nightly program."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_killed_changes_no_result_and_leaves_nothing(seed: int) -> None:
    command = [sys.executable, "-m", "tests.nightly.chaos", "--seconds", "10", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
