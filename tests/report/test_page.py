"""The page says what was measured, and stands by itself."""

import re
from pathlib import Path

import pytest

from benchmarks.report import page
from benchmarks.report.case import Ratio
from benchmarks.report.numbers import Record, break_even, noise, outcomes, sentence
from tests.report import work

ENVIRONMENT = dict.fromkeys(
    ("python", "ray", "pyarrow", "numpy", "pandas", "polars", "duckdb"), "1"
)
ENVIRONMENT |= {"revision": "abc", "kernel": "6.1", "cores": 2, "memory": 1 << 34}
ENVIRONMENT |= {"load_before": [0.1, 0.2, 0.3], "started": 0}


def record(**seconds: dict[str, list[float]]) -> Record:
    """What a run would have written that took these seconds, by side and point."""
    points: dict[str, dict[str, list[float]]] = {}
    for side, by_point in seconds.items():
        for point, values in by_point.items():
            points.setdefault(point, {})[side] = values
    runs = {
        point: {
            side: [{"seconds": s, "pss": 2.0**30} for s in values] for side, values in by.items()
        }
        for point, by in points.items()
    }
    return {
        "environment": ENVIRONMENT,
        "seconds": 10,
        "missing": {"hungry": "there is none"},
        "failed": {},
        "died": {"plain, 40": "took more memory than its limit"},
        "runs": runs,
        "points": {
            point: {
                side: {
                    "n": len(values),
                    "seconds": sorted(values)[len(values) // 2],
                    "pss": 2.0**30,
                }
                for side, values in by.items()
            }
            for point, by in points.items()
        },
    }


def test_a_ratio_is_said_with_its_figures() -> None:
    case = work.case(ratios=(Ratio("quicker", "ours", "plain", paper=3.8),))
    (found,) = outcomes(case, record(plain={"1": [2.0]}, ours={"1": [0.5]}))
    assert found.times == 4
    said = sentence(found, 1)
    for words in "4.00 times", "2 s for plain", "500 ms for ours", "one round", "paper has 3.8":
        assert words in said


def test_a_ratio_is_of_the_last_point_that_both_sides_have() -> None:
    case = work.case(ratios=(Ratio("quicker", "ours", "plain"),))
    known = record(plain={"1": [2.0], "2": [6.0]}, ours={"1": [1.0], "2": [2.0], "4": [3.0]})
    (found,) = outcomes(case, known)
    assert (found.point, found.times) == ("2", 3)


def test_noise_is_what_the_base_differs_from_itself_by() -> None:
    case = work.case(ratios=(Ratio("quicker", "ours", "plain"),))
    alike = record(plain={"1": [1.0, 1.5]}, ours={"1": [1.1, 1.2]})
    assert noise(case, alike) == 1.5
    assert outcomes(case, alike)[0].noisy
    apart = record(plain={"1": [1.0, 1.1]}, ours={"1": [0.1, 0.2]})
    assert not outcomes(case, apart)[0].noisy
    assert noise(case, record(plain={"1": [1.0]}, ours={"1": [1.0]})) is None


def test_what_is_claimed_has_to_hold() -> None:
    case = work.case(ratios=(Ratio("quicker", "ours", "plain", claimed=True),))
    (slower,) = outcomes(case, record(plain={"1": [1.0]}, ours={"1": [2.0]}))
    assert not slower.holds
    assert "NOT AS CLAIMED" in sentence(slower, 1)
    (quicker,) = outcomes(case, record(plain={"1": [2.0]}, ours={"1": [1.0]}))
    assert quicker.holds


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({"1": [1.0], "2": [1.0], "4": [1.0]}, "Ours is quicker than plain from 2 pieces on."),
        ({"1": [0.1], "2": [9.0], "4": [1.0]}, "Ours is quicker than plain from 4 pieces on."),
        ({"1": [0.1], "2": [9.0], "4": [9.0]}, "Ours is not quicker than plain at 4 pieces."),
    ],
)
def test_the_break_even(ours: dict[str, list[float]], said: str) -> None:
    case = work.case(sides=("plain", "ours"))
    known = record(plain={"1": [1.0], "2": [2.0], "4": [3.0]}, ours=ours)
    assert break_even(case, known) == [said]


@pytest.mark.parametrize("axis", ["", "pieces"])
def test_both_pages_stand_by_themselves(tmp_path: Path, axis: str) -> None:
    known = record(
        plain={"1": [2.0, 3.0], "2": [6.0, 6.0]}, ours={"1": [1.0, 1.0], "2": [2.0, 2.0]}
    )
    case = work.case(axis=axis, means=("2",))
    written = page.write(page.build([(case, known)], False), tmp_path)
    html, markdown = written.read_text(), (tmp_path / "report.md").read_text()
    for text in html, markdown:
        for words in "3.00 times", "abc", "hungry did not run here", "plain, 40 did not finish":
            assert words in text
        assert "Geometric mean over 1 points" in text
    assert "A &lt;test&gt;" in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    pictures = re.findall(r"!\[.*\]\((.*)\)", markdown)
    assert [(tmp_path / name).read_text()[:5] for name in pictures] == ["<?xml"]


def counted(**counts: list[float]) -> Record:
    """What a run would have written that only counted pages, at one point, by side."""
    known = record()
    known["runs"] = {"1": {side: [{"pages": n} for n in each] for side, each in counts.items()}}
    known["points"] = {
        "1": {
            side: {"n": len(each), "pages": sorted(each)[len(each) // 2]}
            for side, each in counts.items()
        }
    }
    return known


def test_a_case_without_times_shows_its_counts(tmp_path: Path) -> None:
    known = counted(plain=[4.0, 6.0, 9.0], ours=[2.0, 2.0, 2.0])
    case = work.case(
        counts={"pages": "pages read"},
        axis="",
        ratios=(Ratio("pages", "ours", "plain", figure="pages", claimed=True),),
    )
    page.write(page.build([(case, known)], True), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert noise(case, known) is None
    for words in "| 1 | plain | 3 | 6 (4 to 9) |", "| 1 | ours | 3 | 2 |", "pages: 3.00 times":
        assert words.lower() in text.lower()
    for words in "seconds", "the noise is not known":
        assert words not in text
    assert "pages read" in (tmp_path / "test.svg").read_text()
