"""Reading processes that can be watched and held up while they decode."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.python import Worker
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until


def write(path: Path, columns: int = 4, rows: int = 200_000, seed: int = 0) -> pa.Table:
    """Write a file of float64 columns c0, c1, ... in four row groups."""
    rng = np.random.default_rng(seed)
    table = pa.table({f"c{i}": rng.random(rows) for i in range(columns)})
    pq.write_table(table, path, row_group_size=rows // 4, use_dictionary=False)
    return table


class Reader:
    """A process that reads through the cache, and notes each column chunk that it decodes.

    While `gate` does not exist, decoding waits; `decoding` says that it has begun.
    """

    def __init__(self, store: Store, folder: Path, *, gate: bool = False) -> None:
        self.worker: Worker = store.worker()
        self.pid = self.worker.pid
        self._log = folder / f"decoded-{self.pid}"
        self._begun = folder / f"begun-{self.pid}"
        self._gate = folder / f"gate-{self.pid}"
        self._thread = ThreadPoolExecutor(1)
        if not gate:
            self._gate.touch()
        self.worker.do(f"""
            import hashlib, time
            from zerrow_store.decache import read_parquet
            from zerrow_store.decache.parquet_file import Decoder
            original = Decoder.decode
            def decode(self, wanted):
                open({str(self._begun)!r}, "w").close()
                while not os.path.exists({str(self._gate)!r}):
                    time.sleep(0.005)
                with open({str(self._log)!r}, "a") as log:
                    for unit, parts in wanted.items():
                        for part in parts:
                            print(unit[1], part, file=log)
                return original(self, wanted)
            Decoder.decode = decode
            def digest(table):
                sink = hashlib.sha256()
                for batch in table.combine_chunks().to_batches():
                    for column in batch.columns:
                        sink.update(column.buffers()[1])
                return sink.hexdigest()
        """)

    def start(self, path: Any, **options: Any) -> "Future[Any]":
        """Begin a read; the future is the digest of the table, which the process keeps."""
        code = f"""
            table = read_parquet({str(path)!r}, client=client, **{options!r})
            digest(table)
        """
        return self._thread.submit(self.worker.do, code)

    def read(self, path: Any, **options: Any) -> str:
        """Read a file; returns the digest of the table, which the process keeps."""
        digest: str = self.start(path, **options).result()
        return digest

    def wait_until_decoding(self) -> None:
        """Return when the process decodes, or would if the gate were open."""
        wait_until(self._begun.exists)

    def open_gate(self) -> None:
        """Let it decode."""
        self._gate.touch()

    def decoded(self) -> list[str]:
        """The column chunks that the process has begun to decode."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def drop(self) -> None:
        """Let go of the table."""
        self.worker.do("del table; gc.collect()")


def digest(table: pa.Table) -> str:
    """The digest that `Reader` gives."""
    import hashlib

    sink = hashlib.sha256()
    for batch in table.combine_chunks().to_batches():
        for column in batch.columns:
            sink.update(column.buffers()[1])
    return sink.hexdigest()
