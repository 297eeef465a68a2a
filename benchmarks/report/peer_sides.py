"""The peers' work (`peer_work.py`) in each peer's way. A way is entered once, and then called.

Imports stand where they are needed: each peer has an environment of its own.
"""

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report.peer_work import COLUMNS, CONSUMERS, QUANTITIES, TOP, Answers, keep, read

Work = Callable[[str], Answers]
Way = Callable[[str], AbstractContextManager[tuple[Work, Callable[[], int] | None]]]
"""Of a side: yields the work on a file, and the running count of bytes copied, if it is known."""


@contextmanager
def on_ray(side: str) -> Iterator[tuple[Work, Callable[[], int] | None]]:
    """Tasks that hand tables on, on plain Ray or with the plugin."""
    import ray

    from benchmarks.report.session import copied_bytes, ray_session, touch_plasma

    task = {function: ray.remote(function) for function in (read, keep, *CONSUMERS)}

    def work(path: str) -> Answers:
        table = task[read].remote(path)
        kept = [task[keep].remote(table, most) for most in QUANTITIES]
        return [ray.get([task[consume].remote(rows) for consume in CONSUMERS]) for rows in kept]

    with ray_session(side):
        if side == "plain Ray, warmed plasma":
            touch_plasma()
        yield work, copied_bytes


@contextmanager
def ipc_files(side: str) -> Iterator[tuple[Work, Callable[[], int] | None]]:
    """Ray tasks that write Arrow IPC files into /dev/shm, and hand their names on."""
    import ray

    from benchmarks.report.session import ray_session

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, ray_session("plain Ray"):
        written = {"bytes": 0}

        def work(path: str) -> Answers:
            table = ray.remote(_read_to_file).remote(path, folder)
            kept = [ray.remote(_keep_to_file).remote(table, most, folder) for most in QUANTITIES]
            consume = ray.remote(_consume_file)
            answers = [
                ray.get([consume.remote(rows, n) for n in range(len(CONSUMERS))]) for rows in kept
            ]
            for file in Path(folder).iterdir():
                written["bytes"] += file.stat().st_size
                file.unlink()
            return answers

        yield work, lambda: written["bytes"]


def _to_file(table: Any, path: Path) -> str:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return str(path)


def _from_file(path: str) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def _read_to_file(path: str, folder: str) -> str:
    return _to_file(read(path), Path(folder, "read.arrow"))


def _keep_to_file(path: str, most: int, folder: str) -> str:
    return _to_file(keep(_from_file(path), most), Path(folder, f"{most}.arrow"))


def _consume_file(path: str, number: int) -> float:
    return CONSUMERS[number](_from_file(path))


@contextmanager
def in_duckdb(side: str) -> Iterator[tuple[Work, None]]:
    """One process, with duckdb's tables and threads."""
    import duckdb

    queries = (
        "select sum(l_extendedprice * (1 - l_discount)) from kept",
        "select max(s) from (select sum(l_quantity) s from kept group by l_suppkey)",
        "select max(s) from (select sum(l_quantity) s from kept group by l_shipmode)",
        f"select l_extendedprice from kept order by 1 desc limit 1 offset {TOP - 1}",
    )

    def work(path: str) -> Answers:
        with duckdb.connect() as database:
            columns = ", ".join(COLUMNS)
            database.execute(f"create table t as select {columns} from read_parquet('{path}')")
            answers = []
            for most in QUANTITIES:
                database.execute(
                    f"create or replace table kept as select * from t where l_quantity < {most}"
                )
                answers.append([float(database.execute(q).fetchall()[0][0]) for q in queries])
            return answers

    yield work, None


@contextmanager
def in_polars(side: str) -> Iterator[tuple[Work, None]]:
    """One process, with polars' frames and threads."""
    import polars as pl

    def consume(kept: Any) -> list[float]:
        net = kept.select((pl.col("l_extendedprice") * (1 - pl.col("l_discount"))).sum()).item()
        best = [
            kept.group_by(key).agg(pl.col("l_quantity").sum())["l_quantity"].max()
            for key in ("l_suppkey", "l_shipmode")
        ]
        prices = kept["l_extendedprice"].top_k(TOP)
        return [net, *best, prices.min()]

    def work(path: str) -> Answers:
        frame = pl.read_parquet(path, columns=COLUMNS)
        return [consume(frame.filter(pl.col("l_quantity") < most)) for most in QUANTITIES]

    yield work, None


@contextmanager
def on_dask(side: str) -> Iterator[tuple[Work, None]]:
    """Two worker processes of Dask, between which Arrow tables are pickled."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    with cluster, Client(cluster) as client:

        def work(path: str) -> Answers:
            table = client.submit(read, path, pure=False)
            kept = [client.submit(keep, table, most, pure=False) for most in QUANTITIES]
            futures = [[client.submit(f, rows, pure=False) for f in CONSUMERS] for rows in kept]
            answers: Answers = client.gather(futures)
            return answers

        yield work, None


@contextmanager
def on_daft(side: str) -> Iterator[tuple[Work, None]]:
    """Daft's frames on Ray."""
    import daft
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    daft.set_runner_ray()
    col = daft.col

    def consume(kept: Any) -> list[float]:
        net = kept.select((col("l_extendedprice") * (1 - col("l_discount"))).alias("x")).sum("x")
        best = [
            kept.groupby(key).agg(col("l_quantity").sum()).max("l_quantity")
            for key in ("l_suppkey", "l_shipmode")
        ]
        prices = kept.sort("l_extendedprice", desc=True).limit(TOP).select("l_extendedprice")
        frames = [net, *best, prices.min("l_extendedprice")]
        return [float(next(iter(frame.to_pydict().values()))[0]) for frame in frames]

    def work(path: str) -> Answers:
        frame = daft.read_parquet(path).select(*COLUMNS).collect()
        return [consume(frame.where(col("l_quantity") < most).collect()) for most in QUANTITIES]

    yield work, None
    ray.shutdown()


@contextmanager
def in_vineyard(side: str) -> Iterator[tuple[Work, None]]:
    """Two processes that put tables into Vineyard, and get them from there."""
    from vineyard.deploy.local import start_vineyardd

    with contextlib.ExitStack() as stack:
        daemon = start_vineyardd(meta="local", size="4Gi", rpc=False)
        _, socket, _ = stack.enter_context(daemon)
        context = multiprocessing.get_context("spawn")
        pool = stack.enter_context(context.Pool(2, _connect_vineyard, (socket,)))

        def work(path: str) -> Answers:
            table = pool.apply(_vineyard_read, (path,))
            kept = pool.starmap(_vineyard_keep, [(table, most) for most in QUANTITIES])
            calls = [(rows, n) for rows in kept for n in range(len(CONSUMERS))]
            found = pool.starmap(_vineyard_consume, calls, chunksize=1)
            return [found[: len(CONSUMERS)], found[len(CONSUMERS) :]]

        yield work, None


def _connect_vineyard(socket: str) -> None:
    os.environ["VINEYARD_IPC_SOCKET"] = socket


def _vineyard_client() -> Any:
    import vineyard

    return vineyard.connect(os.environ["VINEYARD_IPC_SOCKET"])


def _vineyard_read(path: str) -> Any:
    return _vineyard_client().put(read(path))


def _vineyard_keep(table: Any, most: int) -> Any:
    client = _vineyard_client()
    return client.put(keep(client.get(table), most))


def _vineyard_consume(rows: Any, number: int) -> float:
    return CONSUMERS[number](_vineyard_client().get(rows))
