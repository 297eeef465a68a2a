"""What is worked out of a case's figures: ratios, noise, and how to say them."""

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.report.case import Case, Ratio

Record = dict[str, Any]
"""A case's file, see `runner.run`."""

BYTES = {"pss": "memory", "copied": "copied"}
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True)
class Outcome:
    """A ratio that was measured: how many times less `side` takes; infinite if it takes nothing.

    point: at which it was. noisy: rounds of the base side differ from each other by as much.
    """

    ratio: Ratio
    point: str
    base: float
    side: float
    noisy: bool

    @property
    def times(self) -> float:
        if self.side == 0:
            return 1.0 if self.base == 0 else math.inf
        return self.base / self.side

    @property
    def holds(self) -> bool:
        """Whether its direction is as claimed."""
        return not self.ratio.claimed or self.times > 1


def outcomes(case: Case, record: Record) -> list[Outcome]:
    """Return the case's ratios, as far as both sides have figures for them."""
    found = []
    for ratio in case.ratios:
        points = [
            point
            for point, sides in record["points"].items()
            if ratio.figure in sides.get(ratio.side, {})
            and ratio.figure in sides.get(ratio.base, {})
        ]
        if (ratio.point or points) and (not ratio.point or ratio.point in points):
            point = ratio.point or points[-1]
            base, side = (
                record["points"][point][s][ratio.figure] for s in (ratio.base, ratio.side)
            )
            noisy = ratio.figure == "seconds" and _within(base, side, noise(case, record))
            found.append(Outcome(ratio, point, base, side, noisy))
    return found


def _within(base: float, side: float, most: float | None) -> bool:
    return most is not None and 1 / most < base / side < most


def noise(case: Case, record: Record) -> float | None:
    """Return how many times as long a round of the base side takes as another one of the same, in
    nine of ten pairs of rounds; None after one round, and of what has no times.
    """
    base = case.sides[0]
    pairs = [
        max(a, b) / min(a, b)
        for sides in record["runs"].values()
        for a, b in itertools.combinations(
            (f["seconds"] for f in sides.get(base, []) if "seconds" in f), 2
        )
    ]
    if not pairs:
        return None
    return pairs[0] if len(pairs) == 1 else statistics.quantiles(pairs, n=10, method="inclusive")[8]


def amount(value: float, figure: str) -> str:
    """Say a figure with its unit."""
    if figure in BYTES:
        for size, unit in _UNITS:
            if value >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:.0f} bytes"
    if figure in ("seconds", "cpu"):
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    return f"{value:,.0f}"


def times(value: float) -> str:
    """Say a ratio."""
    if math.isinf(value):
        return "all of it saved"
    return f"{value:.2f} times" if value < 10 else f"{value:.0f} times"


def sentence(outcome: Outcome, rounds: int) -> str:
    """Say a ratio in a sentence."""
    ratio = outcome.ratio
    both = (amount(value, ratio.figure) for value in (outcome.base, outcome.side))
    what = "{} for {}, {} for {}".format(
        *(word for pair in zip(both, (ratio.base, ratio.side), strict=True) for word in pair)
    )
    text = f"{ratio.what}: {times(outcome.times)} ({what}, at “{outcome.point}”"
    text += f", medians of {rounds} rounds" if rounds > 1 else ", one round"
    if ratio.paper is not None:
        text += f"; the paper has {ratio.paper:g}"
    text += ")"
    if outcome.noisy:
        text += ", which is within the noise"
    if not outcome.holds:
        text += " — NOT AS CLAIMED"
    return text[0].upper() + text[1:] + "."


def break_even(case: Case, record: Record) -> list[str]:
    """Say, for each side of a case whose points are numbers, from which one on it is quicker."""
    base, *others = case.sides
    said = []
    for side in others:
        known = {
            int(point): sides[base]["seconds"] / sides[side]["seconds"]
            for point, sides in record["points"].items()
            if base in sides and side in sides
        }
        slower = [point for point in known if known[point] <= 1]
        quicker = [point for point in known if point > max(slower, default=-1)]
        if quicker:
            said.append(f"{side} is quicker than {base} from {min(quicker)} {case.axis} on.")
        elif known:
            said.append(f"{side} is not quicker than {base} at {max(known)} {case.axis}.")
    return [text[0].upper() + text[1:] for text in said]


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))
