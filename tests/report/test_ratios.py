"""The nightly comparison of ratios sees what has become less, and nothing else."""

from tests.nightly.ratios import wrong


def test_a_ratio_that_has_become_less_is_told() -> None:
    nights = [{"ratios": {"a": times, "b": 1.0}} for times in (3.9, 4.0, 9.0)]
    assert wrong({"a": 2.0, "b": 0.9}, nights) == ["a: 2.00 times, before 4.00"]


def test_a_ratio_that_is_new_or_more_is_not() -> None:
    assert wrong({"new": 0.1, "a": 5.0}, [{"ratios": {"a": 4.0}}]) == []
    assert wrong({"a": 0.1}, []) == []
