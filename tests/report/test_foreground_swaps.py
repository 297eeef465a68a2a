"""What a guest has counted is found in its console; and where there is none, the case says why."""

import json

import pytest

from benchmarks import kernelzero_swap
from benchmarks.kernelzero_swap_guest import COPYING, ENVIRON, LIMITS, MOVING
from benchmarks.report import foreground_swaps


def line(side: str, swap_ins: int) -> str:
    return json.dumps({"side": side, "points": {"tight, put": {"swap_ins": swap_ins}}})


def test_each_round_of_a_console_is_found() -> None:
    lines = ["SeaBIOS", line(COPYING, 7), line(MOVING, 1), line(COPYING, 9), "KZ-EXIT 0"]
    found = kernelzero_swap.found_in("\n".join(lines))
    assert [each["swap_ins"] for each in found[COPYING]["tight, put"]] == [7, 9]
    assert [each["swap_ins"] for each in found[MOVING]["tight, put"]] == [1]


def test_the_sides_and_points_are_those_that_are_compared() -> None:
    case = foreground_swaps.CASE
    assert case.sides == tuple(ENVIRON)
    points = {
        f"{kernel}, {limit}, {phase}"
        for kernel in case.quick_parts
        for limit in LIMITS
        for phase in ("make", "put", "read", "whole")
    }
    assert {ratio.point for ratio in case.ratios} <= points


def test_where_there_is_no_kernel_the_page_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground_swaps, "_unavailable", lambda kernel: "there is no apt-get here")
    with (
        pytest.raises(OSError, match="there is no apt-get"),
        foreground_swaps.CASE.place(MOVING, "6.12", False),
    ):
        pass
