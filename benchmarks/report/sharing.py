"""DAGs that share inputs: n of them at once, each of which reads the same columns of one file."""

from benchmarks.decache_side import Memory, measure_dags
from benchmarks.report.case import Case, Points, Ratio
from benchmarks.tpch import tpch

PLAIN, OURS = "plain", "zerrow"
LIMIT = 12 << 30


def scale(full: bool) -> str:
    """Return TPC-H's."""
    return "1" if full else "0.02"


def measure(side: str, part: str, full: bool) -> Points:
    """part: how many DAGs. Ends this process if it takes more than `LIMIT`."""
    memory = Memory(LIMIT)
    memory.start()
    path = str(tpch(scale(full)) / "lineitem.parquet")
    found = measure_dags(side, path, int(part), memory)
    figures = {name: found[name] for name in ("seconds", "cpu", "faults", "copied")}
    return {part: figures | {"pss": found["peak_bytes"]}}


def prepare(full: bool) -> None:
    """Make the file."""
    tpch(scale(full))


CASE = Case(
    name="sharing",
    title="DAGs that share inputs",
    what="Each DAG reads seven columns of TPC-H's lineitem in one task, and groups and sorts in "
    "the next. All begin at once. Plain Ray's tasks read with `pq.read_table`, ours with "
    "`zerrow_ray.read_parquet`. A run that takes more than 12 GiB is ended.",
    limits="Each count has a Ray and a cache of its own: the first reader always decodes.",
    sides=(PLAIN, OURS),
    quick_parts=("1", "4"),
    full_parts=("1", "2", "5", "10", "20", "30", "40"),
    measure=measure,
    prepare=prepare,
    axis="DAGs at once",
    rounds=3,
    ratios=(
        Ratio("one DAG alone", OURS, PLAIN, "1"),
        Ratio("most DAGs that both sides can run", OURS, PLAIN, paper=2.8),
        Ratio("most memory, the same", OURS, PLAIN, figure="pss"),
        Ratio("bytes copied, the same", OURS, PLAIN, figure="copied", claimed=True),
    ),
)
