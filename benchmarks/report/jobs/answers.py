"""Answers of whole jobs: made once by one process, kept as JSON, and compared with what a job says.

A number may differ in its last digits: sums of floats depend on their order.
"""

import datetime
import json
import math
from collections.abc import Callable
from decimal import Decimal
from numbers import Number
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "data" / "answers"

Rows = list[list[Any]]


def known(name: str, make: Callable[[], dict[str, Rows]]) -> dict[str, Rows]:
    """Return the answers of a job by question, made by `make` if they are not there yet."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: plain(rows) for key, rows in make().items()}))
    answers: dict[str, Rows] = json.loads(path.read_text())
    return answers


def plain(rows: Any) -> Rows:
    """Return rows as lists of numbers, texts and None, in an order that does not hang on the last
    digits of numbers.
    """
    return sorted(([_plain(value) for value in row] for row in rows), key=_key)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    return float(value) if isinstance(value, Number | Decimal) else value


def _key(row: list[Any]) -> list[str]:
    return [f"{value:.6e}" if isinstance(value, float) else str(value) for value in row]


def check(question: str, found: Any, wanted: Rows) -> None:
    """Raise AssertionError unless the rows are the same, in whichever order."""
    rows = plain(found)
    assert len(rows) == len(wanted), (question, len(rows), len(wanted))
    for row, right in zip(rows, wanted, strict=True):
        assert len(row) == len(right), (question, row, right)
        same = all(_same(a, b) for a, b in zip(row, right, strict=True))
        assert same, (question, row, right)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)
    return bool(a == b)
