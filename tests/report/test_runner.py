"""The runner alternates the sides, keeps what failed, and does not run again what is done."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.report import runner
from benchmarks.report.case import Place
from tests.report import work


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sides say that they ran; results go beside it."""
    monkeypatch.setattr(runner, "QUICK_RESULTS", tmp_path / "quick")
    monkeypatch.setattr(runner, "FULL_RESULTS", tmp_path / "full")
    monkeypatch.setenv(work.LOG, str(tmp_path / "log"))
    return tmp_path / "log"


def test_sides_take_turns_and_the_first_one_changes(log: Path) -> None:
    runner.run(work.case(quick_parts=("1",)), False)
    first, second = log.read_text().splitlines()[:3], log.read_text().splitlines()[3:]
    assert sorted(first) == sorted(second) == ["1 hungry", "1 ours", "1 plain"]
    assert first[0] != second[0]


def test_every_side_comes_first_as_often() -> None:
    sides = ["a", "b", "c"]
    orders = [runner._in_turn(sides, number) for number in range(6)]
    assert sorted(order[0] for order in orders) == ["a", "a", "b", "b", "c", "c"]
    assert all(sorted(order) == sides for order in orders)


def test_a_file_has_medians_quartiles_and_what_was_run(log: Path) -> None:
    runner.run(work.case(), False)
    record = json.loads((log.parent / "quick" / "test.json").read_text())
    plain = record["points"]["2"]["plain"]
    assert plain["n"] == 2
    assert plain["seconds"] == plain["seconds_low"] == plain["seconds_high"] == 4.0
    assert {"cpu", "pss", "copied", "faults"} < plain.keys()
    assert {"revision", "kernel", "python", "ray", "pyarrow", "polars"} < record[
        "environment"
    ].keys()
    assert len(record["runs"]["2"]["ours"]) == 2


def test_a_side_that_takes_too_much_memory_is_no_failure(log: Path) -> None:
    record = runner.run(work.case(), False)
    assert record["died"] == {"hungry, 2": "took more memory than its limit"}
    assert record["failed"] == {}
    assert "hungry" not in record["points"]["2"]


def test_a_side_that_fails_is_told_and_the_others_are_run(log: Path) -> None:
    record = runner.run(work.case(sides=("plain", "broken"), quick_parts=("1",)), False)
    assert record["failed"] == {"broken, 1": "exit status 3"}
    assert list(record["points"]["1"]) == ["plain"]
    assert not runner.is_done(record)


def test_a_side_that_cannot_run_here_is_told(log: Path) -> None:
    case = work.case(missing=lambda side: "there is none" if side == "hungry" else "")
    assert runner.run(case, False)["missing"] == {"hungry": "there is none"}
    assert "hungry" not in log.read_text()


def test_a_part_that_has_no_place_here_is_told(log: Path) -> None:
    @contextmanager
    def place(side: str, part: str, full: bool) -> Iterator[Place]:
        if part == "2":
            raise OSError("no loop devices")
        yield Place()

    record = runner.run(work.case(sides=("plain", "ours"), place=place), False)
    assert record["missing"] == dict.fromkeys(("plain, 2", "ours, 2"), "no loop devices")
    assert list(record["points"]) == ["1"]
    assert record["failed"] == {}


def test_what_is_done_at_this_revision_is_not_run_again(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "revision", lambda: "a")
    case = work.case()
    assert not runner.is_done(runner.load(case, False))
    runner.run(case, False)
    assert runner.is_done(runner.load(case, False))
    assert not runner.is_done(runner.load(case, True)), "a quick run is no full one"
    monkeypatch.setattr(runner, "revision", lambda: "b")
    assert not runner.is_done(runner.load(case, False))


def test_what_was_run_with_changes_that_nobody_knows_is_run_again(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "revision", lambda: "a+")
    runner.run(work.case(), False)
    assert not runner.is_done(runner.load(work.case(), False))
