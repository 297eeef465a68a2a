"""A feature pipeline over pandas: clean, add features step by step, fit a line on each of five
folds.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.report.jobs import answers
from benchmarks.report.jobs.running import execute
from benchmarks.tpch import DATA

FOLDS = 5
FEATURES = ["amount", "amount_log", "amount_scaled", "hour", "weekend", "user_mean", "user_count"]


def _rows(full: bool) -> int:
    return 6_000_000 if full else 200_000


def prepare(full: bool) -> None:
    """Make the events, and the answers."""
    path = _path(full)
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        random, rows = np.random.default_rng(0), _rows(full)
        events = {
            "user": random.integers(0, rows // 50, rows),
            "seconds": random.integers(0, 90 * 86400, rows),
            "amount": random.exponential(20, rows),
            "label": random.random(rows),
        }
        missing = pa.array(random.random(rows) < 0.02)
        table = pa.table(
            events | {"amount": pa.array(events["amount"], mask=missing.to_numpy(False))}
        )
        unfinished = path.with_suffix(".partial")
        pq.write_table(table, unfinished)
        unfinished.rename(path)
    _wanted(full)


def _path(full: bool) -> Any:
    return DATA / f"events-{_rows(full)}.parquet"


def run(side: str, full: bool) -> None:
    """Run the pipeline, and compare the lines."""
    task = ray.remote
    frame = task(clean).bind(task(read).bind(str(_path(full))))
    frame = task(add_amounts).bind(frame)
    frame = task(add_times).bind(frame)
    frame = task(join_users).bind(frame, task(users).bind(frame))
    folds = [task(fit).bind(frame, number) for number in range(FOLDS)]
    found = execute(side, task(together).bind(*folds))
    answers.check("folds", found, _wanted(full)["folds"])


def read(path: str) -> pd.DataFrame:
    return pd.read_parquet(path)


def clean(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(amount=frame["amount"].fillna(frame["amount"].mean()))


def add_amounts(frame: pd.DataFrame) -> pd.DataFrame:
    amount = frame["amount"]
    scaled = (amount - amount.mean()) / amount.std()
    return frame.assign(amount_log=np.log1p(amount), amount_scaled=scaled)


def add_times(frame: pd.DataFrame) -> pd.DataFrame:
    hours = frame["seconds"] // 3600
    return frame.assign(
        hour=(hours % 24).astype("float64"), weekend=(hours // 24 % 7 > 4).astype("float64")
    )


def users(frame: pd.DataFrame) -> pd.DataFrame:
    grouped = frame.groupby("user", sort=True)["amount"]
    return grouped.agg(user_mean="mean", user_count="count").reset_index()


def join_users(frame: pd.DataFrame, by_user: pd.DataFrame) -> pd.DataFrame:
    known = by_user.set_index("user")
    return frame.assign(
        user_mean=known["user_mean"].reindex(frame["user"]).to_numpy(),
        user_count=known["user_count"].reindex(frame["user"]).to_numpy().astype("float64"),
    )


def fit(frame: pd.DataFrame, number: int) -> list[float]:
    """Return the line's coefficients, fitted on all folds but one, and its error on that."""
    size = len(frame) // FOLDS
    test = frame.iloc[number * size : (number + 1) * size]
    rows = np.r_[0 : number * size, (number + 1) * size : len(frame)]
    train = frame.iloc[rows]
    x = train[FEATURES].to_numpy()
    solved = np.linalg.lstsq(x.T @ x, x.T @ train["label"].to_numpy(), rcond=None)[0]
    error = test[FEATURES].to_numpy() @ solved - test["label"].to_numpy()
    return [float(number), *map(float, solved), float(np.sqrt(np.mean(error**2)))]


def together(*results: Any) -> list[Any]:
    return list(results)


def _wanted(full: bool) -> dict[str, answers.Rows]:
    return answers.known(f"features-{_rows(full)}", lambda: {"folds": _in_one_process(full)})


def _in_one_process(full: bool) -> answers.Rows:
    frame = add_times(add_amounts(clean(read(str(_path(full))))))
    frame = join_users(frame, users(frame))
    return [fit(frame, number) for number in range(FOLDS)]
