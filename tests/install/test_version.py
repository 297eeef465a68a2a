"""One version, in all places that tell it."""

import re
from importlib.metadata import version
from pathlib import Path

import zerrow_store

ROOT = Path(__file__).parents[2]


def test_the_package_tells_its_version():
    assert zerrow_store.__version__ == version("zerrow-store")


def test_the_changelog_begins_with_it():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == zerrow_store.__version__
