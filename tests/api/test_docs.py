"""docs/api.md has every public name, with its stability."""

import re
from pathlib import Path

import pytest

import zerrow_ray
import zerrow_store

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
LABELS = {"stable", "beta"}


@pytest.mark.parametrize("package", [zerrow_store, zerrow_ray])
def test_every_public_name_has_a_label(package) -> None:
    section = DOCS.read_text().split(f"## `{package.__name__}`\n")[1].split("\n## ")[0]
    labels = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))
    assert labels.keys() == set(package.__all__)
    assert set(labels.values()) <= LABELS
    assert package.__all__ == sorted(package.__all__)


@pytest.mark.parametrize("package", [zerrow_store, zerrow_ray])
def test_every_public_name_is_there_and_documented(package) -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__, name


def test_methods_that_are_named_are_there() -> None:
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith("| `Client` |"))
    for name in re.findall(r"`(\w+)`", row)[1:]:
        assert getattr(zerrow_store.Client, name).__doc__, name
