"""The tests of memory and of messages once more, with arenas in the other kind of file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zerrow_store.config import MemoryConfig

TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(1800)
def test_the_other_kind_of_file() -> None:
    other = "auto" if MemoryConfig.from_environment().huge_pages == "off" else "off"
    suites = [str(TESTS / name) for name in ("memory", "sipc")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--ignore={__file__}", *suites],
        env=os.environ | {"ZERROW_HUGE_PAGES": other},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
