"""Resharing with and without dictionaries: many DAGs at once over columns of strings.

Row-level operations make new strings, unless these are dictionary-encoded: then they make new
indices, and the dictionary stays the input's.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from benchmarks.report.case import Case, Points, Ratio
from benchmarks.report.data import lineitem
from benchmarks.report.figures import measuring
from benchmarks.report.session import copied_bytes, is_plain, ray_session

PLAIN, PLAIN_DICTIONARIES = "plain Ray", "plain Ray, dictionaries"
OURS, OUR_DICTIONARIES = "zerrow", "zerrow, dictionaries"
STRINGS = ["l_shipmode", "l_shipinstruct", "l_comment"]
COLUMNS = ["l_orderkey", "l_quantity", *STRINGS]


@ray.remote
def read(path: str, side: str) -> pa.Table:
    if side == PLAIN:
        return pq.read_table(path, columns=COLUMNS)
    if side == PLAIN_DICTIONARIES:
        return pq.read_table(path, columns=COLUMNS, read_dictionary=STRINGS)
    import zerrow_ray

    return zerrow_ray.read_parquet(path, columns=COLUMNS, share_strings=side == OUR_DICTIONARIES)


@ray.remote
def some_rows(table: pa.Table, number: int) -> pa.Table:
    """About four fifths of the rows, no two DAGs' the same."""
    return table.filter(pc.field("l_quantity") > 8 + number % 5)


@ray.remote
def ordered(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["l_quantity"]))


@ray.remote
def by_mode(table: pa.Table) -> dict[str, float]:
    return _by_mode(table["l_shipmode"].cast(pa.string()), table["l_quantity"])


def _by_mode(modes: pa.ChunkedArray, quantities: pa.ChunkedArray) -> dict[str, float]:
    table = pa.table({"mode": modes, "quantity": quantities})
    groups = table.group_by("mode").aggregate([("quantity", "sum")])
    totals: list[float] = groups["quantity_sum"].to_pylist()
    return dict(zip(groups["mode"].to_pylist(), totals, strict=True))


def expected(path: str, number: int) -> dict[str, float]:
    """What pyarrow alone makes of it."""
    table = pq.read_table(path, columns=["l_quantity", "l_shipmode"])
    rows = table.filter(pc.field("l_quantity") > 8 + number % 5)
    return _by_mode(rows["l_shipmode"], rows["l_quantity"])


def measure(side: str, part: str, full: bool) -> Points:
    """part: how many DAGs."""
    path = str(lineitem("0.5" if full else "0.02"))
    count = int(part)
    points: Points = {}
    options = {} if is_plain(side) else {"memory": 8 << 30}
    with ray_session(side, plasma=8 << 30 if is_plain(side) else 1 << 30, **options):
        with measuring(points, part, copied_bytes):
            inputs = [read.remote(path, side) for _ in range(count)]
            rows = [some_rows.remote(table, i) for i, table in enumerate(inputs)]
            results = ray.get([by_mode.remote(ordered.remote(table)) for table in rows])
        for number in range(min(5, count)):
            assert results[number] == expected(path, number), (side, number)
    return points


def prepare(full: bool) -> None:
    """Make the file."""
    lineitem("0.5" if full else "0.02")


CASE = Case(
    name="resharing",
    title="Resharing, with and without dictionaries",
    what="Each DAG reads two columns of numbers and three of strings (two with few values, one "
    "with comments), keeps four fifths of the rows, orders them, and groups. All begin at once; "
    "all tables are referred to until the end. Both sides have 8 GiB for them and spill beyond "
    "that.",
    limits="Dictionaries help plain Ray, too: its copies of the filtered columns are smaller.",
    sides=(PLAIN, PLAIN_DICTIONARIES, OURS, OUR_DICTIONARIES),
    quick_parts=("1", "4"),
    full_parts=("1", "5", "10", "20", "40"),
    measure=measure,
    prepare=prepare,
    axis="DAGs at once",
    rounds=3,
    ratios=(
        Ratio("with dictionaries, over plain Ray", OUR_DICTIONARIES, PLAIN, paper=7.3),
        Ratio(
            "with dictionaries, over plain Ray with dictionaries",
            OUR_DICTIONARIES,
            PLAIN_DICTIONARIES,
        ),
        Ratio("without dictionaries, over plain Ray", OURS, PLAIN),
        Ratio("dictionaries over none", OUR_DICTIONARIES, OURS),
        Ratio("one DAG alone, with dictionaries", OUR_DICTIONARIES, PLAIN, "1"),
        Ratio("most memory", OUR_DICTIONARIES, PLAIN, figure="pss"),
        Ratio("bytes copied", OUR_DICTIONARIES, PLAIN, figure="copied", claimed=True),
    ),
)
