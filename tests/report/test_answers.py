"""Answers of whole jobs are compared whatever their order, and a wrong one is seen."""

import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks.report.jobs import answers, service

ROWS = [("b", 2.5, datetime.date(1995, 1, 2)), ("a", Decimal("1.10"), None)]


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> answers.Rows:
    """The rows, as they come back from a file."""
    monkeypatch.setattr(answers, "FOLDER", tmp_path)
    answers.known("test", lambda: {"q": ROWS})
    return answers.known("test", lambda: pytest.fail("it is made once"))["q"]


def test_the_same_rows_in_another_order_are_right(wanted: answers.Rows) -> None:
    answers.check("q", [ROWS[1], ("b", 2.5 + 1e-12, datetime.date(1995, 1, 2))], wanted)


@pytest.mark.parametrize(
    "found",
    [
        ROWS[:1],
        [*ROWS, ROWS[0]],
        [ROWS[0], ("a", 1.2, None)],
        [ROWS[0], ("a", 1.1, "x")],
        [ROWS[0], ("a", 1.1)],
    ],
    ids=["a row less", "a row more", "another number", "another text", "a column less"],
)
def test_a_wrong_answer_is_seen(wanted: answers.Rows, found: object) -> None:
    with pytest.raises(AssertionError):
        answers.check("q", found, wanted)


def test_the_service_knows_its_answers() -> None:
    table = service.first(100)
    for version in range(1, service.VERSIONS):
        table = service.next_version(table, version)
    for column in range(service.COLUMNS):
        reader = service.Reader()
        reader._table = table
        expected = service._expected(100, service.VERSIONS - 1, 17, column)
        assert reader.answer(17, column) == expected
