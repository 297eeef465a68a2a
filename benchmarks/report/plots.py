"""A case's plot: seconds and memory of all sides, with quartiles, or what it counts, as SVG."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.report.case import Case
from benchmarks.report.numbers import Record

PANELS = {"seconds": "seconds", "pss": "peak memory, GiB"}
_SCALES = {"seconds": 1.0, "pss": 1 / (1 << 30)}


def plot(case: Case, record: Record) -> str:
    """Return the plot's SVG."""
    mpl.rcParams |= {"svg.hashsalt": case.name, "svg.fonttype": "none", "font.size": 8}
    shown = dict(list(case.counts.items())[:2]) or PANELS
    height = 3.2 if case.axis else 1.2 + 0.17 * len(record["points"]) * len(case.sides)
    figure = Figure(figsize=(9.5, height), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=not case.axis, squeeze=False)[0]
    for axes, (name, label) in zip(panels, shown.items(), strict=True):
        (_lines if case.axis else _bars)(axes, case, record["points"], name, label)
        axes.grid(True, axis="both" if case.axis else "x", linewidth=0.3)
    panels[0].legend(*panels[0].get_legend_handles_labels(), fontsize=7)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _lines(axes: Any, case: Case, points: dict[str, Any], name: str, label: str) -> None:
    for side in case.sides:
        found = {int(point): sides[side] for point, sides in points.items() if side in sides}
        values = [_value(figures, name) for figures in found.values()]
        axes.errorbar(
            list(found), values, _errors(found.values(), name), fmt="o-", markersize=3, label=side
        )
    axes.set(xlabel=case.axis, ylabel=label, ylim=(0, None))
    numbers = [int(point) for point in points]
    if max(numbers) > 100 * min(numbers):
        axes.set_xscale("log", base=2)


def _bars(axes: Any, case: Case, points: dict[str, Any], name: str, label: str) -> None:
    width = 0.8 / len(case.sides)
    for number, side in enumerate(case.sides):
        found = {place: sides[side] for place, sides in enumerate(points.values()) if side in sides}
        heights = [place + width * number - 0.4 + width / 2 for place in found]
        values = [_value(figures, name) for figures in found.values()]
        errors = _errors(found.values(), name)
        axes.barh(heights, values, width, xerr=errors, label=side, error_kw={"linewidth": 0.7})
    axes.set_yticks(range(len(points)), list(points))
    axes.set_xlabel(label)
    axes.set_ylim(len(points) - 0.5, -0.5)


def _value(figures: dict[str, float], name: str) -> float:
    return figures.get(name, 0.0) * _SCALES.get(name, 1.0)


def _errors(found: Any, name: str) -> list[list[float]] | None:
    """How far the quartiles are from the medians; only seconds have some."""
    if name != "seconds" or any("seconds_low" not in figures for figures in found):
        return None
    return [
        [figures["seconds"] - figures["seconds_low"] for figures in found],
        [figures["seconds_high"] - figures["seconds"] for figures in found],
    ]
