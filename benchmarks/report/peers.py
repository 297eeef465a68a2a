"""Peers on the same work. Nothing of ours is imported before it is known which peer it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import environments, peer_sides
from benchmarks.report.case import Case, Place, Points, Ratio
from benchmarks.report.figures import measuring
from benchmarks.report.peer_work import check, expected

PLAIN, WARMED, OURS = "plain Ray", "plain Ray, warmed plasma", "zerrow"
WAYS: dict[str, peer_sides.Way] = {
    PLAIN: peer_sides.on_ray,
    WARMED: peer_sides.on_ray,
    OURS: peer_sides.on_ray,
    "IPC files in /dev/shm": peer_sides.ipc_files,
    "duckdb, one process": peer_sides.in_duckdb,
    "polars, one process": peer_sides.in_polars,
    "Dask, pickled Arrow": peer_sides.on_dask,
    "Daft on Ray": peer_sides.on_daft,
    "Vineyard": peer_sides.in_vineyard,
}
PACKAGES = {
    "Dask, pickled Arrow": ("dask", ("distributed", "pyarrow", "psutil"), ("distributed",)),
    "Daft on Ray": ("daft", ("daft[ray]", "pyarrow", "psutil"), ("daft", "ray")),
    "Vineyard": ("vineyard", ("vineyard", "pyarrow", "psutil"), ("vineyard",)),
}
"""Peers with an environment of their own: its name, what is installed, and what is imported."""


def file(full: bool) -> Path:
    """Return what all of them read."""
    from benchmarks.report.data import lineitem

    return lineitem("1" if full else "0.05")


def measure(side: str, part: str, full: bool) -> Points:
    """The work, three times, in one way."""
    points: Points = {}
    path = file(full)
    with WAYS[side](side) as (work, copied):
        for turn in ("first", "again", "and again"):
            with measuring(points, turn, copied):
                answers = work(str(path))
            check(answers, expected(path))
    return points


def prepare(full: bool) -> None:
    """Make the file and its answers."""
    expected(file(full))


def missing(side: str) -> str:
    """Return why a peer cannot be installed, or ""."""
    return environments.cannot_install(*PACKAGES[side]) if side in PACKAGES else ""


@contextmanager
def place(side: str, part: str, full: bool) -> Iterator[Place]:
    """A peer's own environment; plasma preallocated where it is warmed."""
    if side in PACKAGES:
        yield Place(python=environments.python(PACKAGES[side][0]))
    else:
        warmed = {"RAY_preallocate_plasma_memory": "1"} if side == WARMED else {}
        yield Place(environ=warmed)


CASE = Case(
    name="peers",
    title="Peers on the same work",
    what="One task reads five columns of lineitem, two keep some of the rows, and four consumers "
    "of each aggregate in four ways. Every answer is compared with pyarrow's. duckdb and polars "
    "do it in one process with all cores: what one could do instead on one machine.",
    limits="The consumers of Dask may run where the table is, without a copy. Memory includes "
    "what a side keeps ready: 4 GiB of touched plasma in “warmed”. Bytes copied are not known of "
    "engines that have tables of their own.",
    sides=tuple(WAYS),
    measure=measure,
    place=place,
    prepare=prepare,
    missing=missing,
    ratios=tuple(
        Ratio(f"zerrow over {side}", OURS, side, turn)
        for side in WAYS
        if side != OURS
        for turn in ("first", "and again")
    ),
)
