"""What a case of the report is: sides that do the same work, and what is compared.

A case has *sides*, of which the first is the one that the others are compared with, and *parts*.
Each side runs each part in a process of its own, once a round, and gives figures for one or more
*points*. Within a round the sides take turns; who comes first changes with the round.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

Figures = dict[str, float]
"""seconds; cpu: processor seconds of the session; faults: its page faults; pss: the most memory, in
bytes, each page counted once; copied: bytes that the work wrote once more. What a side cannot
tell is missing. Cases that only count have figures of their own instead, see `Case.counts`.
"""

Points = dict[str, Figures]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a side runs a part. limit: bytes that all its processes and files may take."""

    environ: dict[str, str] = field(default_factory=dict)
    limit: int | None = None
    python: str = sys.executable


@contextlib.contextmanager
def anywhere(side: str, part: str, full: bool) -> Iterator[Place]:
    """The machine as it is."""
    yield Place()


def nothing_missing(side: str) -> str:
    """Every side can be tried everywhere."""
    return ""


def nothing_to_prepare(full: bool) -> None:
    """There is no data to make."""


@dataclass(frozen=True)
class Ratio:
    """How many times less of a figure `side` takes than `base`, at a point.

    paper: what the paper has for it. claimed: whether the run is wrong if it is not above 1; that
    is for what holds at small sizes and on a loaded machine, too. point: its last one by default.
    """

    what: str
    side: str
    base: str
    point: str = ""
    figure: str = "seconds"
    paper: float | None = None
    claimed: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """See the module. `measure(side, part, full)` runs in the side's process.

    counts: of a case without times, the figures by name, and how the page calls them; the first two
    are plotted.
    axis: what the points count, if they are numbers. means: of points whose names end so, geometric
    means are given. missing: why a side cannot run here, or "".
    what: one sentence on what is done. limits: one on what the figures do not say.
    """

    name: str
    title: str
    what: str
    limits: str = ""
    sides: tuple[str, ...]
    quick_parts: tuple[str, ...] = ("",)
    full_parts: tuple[str, ...] = ("",)
    measure: Callable[[str, str, bool], Points]
    place: Callable[[str, str, bool], AbstractContextManager[Place]] = anywhere
    prepare: Callable[[bool], None] = nothing_to_prepare
    missing: Callable[[str], str] = nothing_missing
    ratios: tuple[Ratio, ...] = ()
    counts: dict[str, str] = field(default_factory=dict)
    axis: str = ""
    means: tuple[str, ...] = ()
    rounds: int = 5
    quick_rounds: int = 1

    def parts(self, full: bool) -> tuple[str, ...]:
        """Return the parts of a full or a quick run."""
        return self.full_parts if full else self.quick_parts
