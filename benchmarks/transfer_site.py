"""One machine of `benchmarks.transfer`: a store of its own, and what it is told on standard input.

A line is a JSON array of a method's name and its arguments; the answer is a line, too.
"""

import base64
import gc
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight

from zerrow_store.connection import connect
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native
from zerrow_store.server.supervisor import Supervisor
from zerrow_store.transfer import local, reading
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.neighbours import Neighbours
from zerrow_store.transfer.receiver import Receiver
from zerrow_store.transfer.security import Security, Tls
from zerrow_store.transfer.segment_files import FileClient

SECRET = b"of the benchmark's two machines"

# Larger batches are no quicker; with much larger ones Flight needs several times the memory.
_FLIGHT_BATCH = 16 << 20


class Site:
    """A machine. address: on which it serves; tls: paths of its certificate, key, authority."""

    def __init__(self, address: str, tls: list[str]) -> None:
        os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
        certificate, key, authority = tls
        self._tls = Tls(certificate=certificate, key=key, authority=authority)
        self._address = address
        self._sites: dict[str, tuple[Any, Security]] = {}
        self._supervisors: list[Supervisor] = []
        for way, used in ("plain", None), ("tls", self._tls):
            # An agent has one way to encrypt, or none; and a store has one agent.
            name = f"bench-{uuid.uuid4().hex[:8]}"
            supervisor = Supervisor(name, budget=6 << 30, watch_pid=os.getpid())
            supervisor.start()
            self._supervisors.append(supervisor)
            self._sites[way] = connect(name), Security(secret=SECRET, tls=used)
        self._client, self._security = self._sites["plain"]
        agent_client = FileClient(self._client.name)
        neighbours = Neighbours(agent_client, self._security, Followers(agent_client))
        self._receiver = Receiver(agent_client, self._security, neighbours)
        self._flight = _Flight(f"grpc://{address}:0", self._client)
        self._objects = 0

    def serve(self) -> dict[str, str]:
        """Return where objects are to be had, by way."""
        found = {
            way: local.serve(client.name, security, self._address)
            for way, (client, security) in self._sites.items()
        }
        return found | {"flight": f"grpc://{self._address}:{self._flight.port}"}

    def publish(self, store: str, nbytes: int) -> list[Any]:
        """Publish a table of one column; returns its object."""
        self._objects += 1
        table = pa.table({"x": pc.add(pa.array(np.arange(nbytes // 8)), self._objects)})
        encoded = _native.encode(table)
        object_id = os.urandom(16)
        self._sites[store][0].publish(object_id, encoded)
        allocations = _native.message_allocations(encoded.message)
        return [_text(object_id), [[_text(s), o, size] for s, o, size in allocations]]

    def delete(self, store: str, object_id: str) -> None:
        """Delete an object."""
        self._sites[store][0].delete(_bytes(object_id))

    def fetch(self, way: str, streams: int, location: str, object_id: str, places: Any) -> float:
        """Land an object, let go of it, and return the seconds until it could be read."""
        allocations = [(_bytes(s), o, size) for s, o, size in places]
        wanted = _bytes(object_id)
        gc.collect()
        start = time.perf_counter()
        if way == "flight":
            landed: Any = self._fetch_by_flight(location, wanted, allocations)
        elif streams:
            reading.streams_for = lambda nbytes: streams
            landed = self._receiver.fetch(location, wanted, allocations)
        else:
            client, security = self._sites[way]
            landed = local.fetch(client, security, location, wanted, allocations)
        seconds = time.perf_counter() - start
        del landed
        return seconds

    def find_processes(self) -> None:
        """Find this machine's processes, as often as new ones may have come: that takes time."""
        names = {client.name for client, _ in self._sites.values()}
        self._processes = [psutil.Process()] + [
            process
            for process in psutil.process_iter(["cmdline"])
            if not names.isdisjoint(process.info["cmdline"] or [])
        ]

    def cpu(self) -> float:
        """Return the processor time of the processes that were found."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def stop(self) -> None:
        """End what was started."""
        self._flight.shutdown()
        for supervisor in self._supervisors:
            supervisor.stop()

    def _fetch_by_flight(self, location: str, object_id: bytes, allocations: Any) -> Any:
        """As an object was landed with Flight: received in its memory, copied to the arena."""
        buffers = []
        with flight.connect(location) as connection:
            ticket = flight.Ticket(json.dumps([_text(object_id), len(allocations)]).encode())
            pieces = _pieces(connection.do_get(ticket))
            for _, _, size in allocations:
                buffers.append(allocate(size))
                target, filled = memoryview(buffers[-1]), 0
                while filled < size:
                    piece = next(pieces)
                    target[filled : filled + len(piece)] = piece
                    filled += len(piece)
        encoded = _native.encode_buffers(b"", buffers)
        return self._client.publish_transient(os.urandom(16), encoded)


class _Flight(flight.FlightServerBase):  # type: ignore[misc]
    """Flight at its best: the batches are sent by its own threads, without Python."""

    def __init__(self, location: str, client: Any) -> None:
        super().__init__(location)
        self._client = client

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.RecordBatchStream:
        object_id = _bytes(json.loads(ticket.ticket)[0])
        hold = self._client.hold(object_id)
        allocations = self._client.allocations(object_id)
        self._client.ensure_places([(s, o) for s, o, _ in allocations], hold)
        batches = []
        for segment, offset, size in allocations:
            whole = _native.view(segment, offset, size, hold)
            for start in range(0, size, _FLIGHT_BATCH):
                part = whole.slice(start, min(_FLIGHT_BATCH, size - start))
                column = pa.Array.from_buffers(pa.uint8(), part.size, [None, part])
                batches.append(pa.record_batch([column], ["bytes"]))
        return flight.RecordBatchStream(
            pa.RecordBatchReader.from_batches(batches[0].schema, batches)
        )


def _pieces(reader: Any) -> Iterator[memoryview]:
    for chunk in reader:
        column = chunk.data.column(0)
        yield memoryview(column.buffers()[1])[column.offset : column.offset + len(column)]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def main() -> None:
    site = Site(sys.argv[1], sys.argv[2:5])
    print(json.dumps(None), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(site, name)(*arguments)), flush=True)
    site.stop()


if __name__ == "__main__":
    main()
