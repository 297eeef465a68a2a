"""Compares counts with those that are written down in a file, or writes them down anew."""

import json
import os
from pathlib import Path
from typing import Any

Counts = dict[str, dict[str, Any]]
"""By operation."""


def compare(found: Counts, path: Path) -> None:
    """Raise AssertionError if a count differs from what is written down; or write it down."""
    known: Counts = json.loads(path.read_text())
    if os.environ.get("RECORD") == "1":
        for operation, counts in found.items():
            known.setdefault(operation, {}).update(counts)
        path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return
    wanted = {
        operation: {name: known.get(operation, {}).get(name) for name in counts}
        for operation, counts in found.items()
    }
    assert found == wanted, "the first lines of tests/gate/test_counts.py say what to do"
    assert found.keys() == known.keys()
