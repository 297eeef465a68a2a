"""Charts in SVG, of bytes over time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from zerrow_store.sizes import format_size

_WIDTH, _HEIGHT = 900, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 10, 10, 24
_TICKS = 4
_MINUTE, _DAY = 60, 86_400


@dataclass(frozen=True)
class Line:
    """A line of a chart. style: the CSS class that colours it; values: bytes."""

    name: str
    style: str
    values: Sequence[float]


def over_time(title: str, times: Sequence[float], lines: Sequence[Line]) -> str:
    """Return a chart of lines, with their legend. times: of the values, in seconds since the epoch,
    ascending.
    """
    top = _round_up(max((value for line in lines for value in line.values), default=0))
    drawn = "".join(_polyline(times, line, top) for line in lines)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_grid(times, top)}{drawn}</svg>"
        f"<figcaption>{''.join(_key(line) for line in lines)}</figcaption></figure>"
    )


def _round_up(value: float) -> float:
    """Return the power of two bytes from `value` on, or one and a half of it: a readable scale."""
    top = 1 << 20
    while top < value:
        top *= 2
    return top * 0.75 if top * 0.75 >= value and top > 1 << 20 else top


def _polyline(times: Sequence[float], line: Line, top: float) -> str:
    points = [
        f"{_x(at, times):.1f},{_y(value, top):.1f}"
        for at, value in zip(times, line.values, strict=True)
    ]
    if len(points) == 1:  # so that it is seen
        points.append(f"{_WIDTH - _RIGHT},{points[0].partition(',')[2]}")
    name = f"<title>{escape(line.name)}</title>"
    return f'<polyline class="{line.style}" points="{" ".join(points)}">{name}</polyline>'


def _grid(times: Sequence[float], top: float) -> str:
    parts = []
    for i in range(_TICKS + 1):
        value = top * i / _TICKS
        y = _y(value, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}">{format_size(int(value))}</text>')
    for share in (0.0, 0.5, 1.0):
        at = times[0] + share * (times[-1] - times[0])
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        x = _LEFT + share * (_WIDTH - _RIGHT - _LEFT)
        text = _clock(at, times[-1] - times[0])
        parts.append(f'<text style="text-anchor: {anchor}" x="{x}" y="{_HEIGHT - 6}">{text}</text>')
    return "".join(parts)


def _clock(at: float, span: float) -> str:
    form = "%d %b %H:%M" if span > _DAY / 2 else "%H:%M" if span > 10 * _MINUTE else "%H:%M:%S"
    return time.strftime(form, time.localtime(at))


def _key(line: Line) -> str:
    return f'<span><i class="{line.style}"></i>{escape(line.name)}</span>'


def _x(at: float, times: Sequence[float]) -> float:
    span = times[-1] - times[0] or 1.0
    return _LEFT + (at - times[0]) / span * (_WIDTH - _RIGHT - _LEFT)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _BOTTOM - _TOP)
