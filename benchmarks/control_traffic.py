"""`make bench-control`: what stores of 10, 100 and 1000 nodes say to each other, and what breaks.

The cost of a claim (whose is this table?) and of a let-go is measured here: a store with its
agent's part and an owner in processes of their own, asked by this one over loopback, as many at a
time as the connection takes. With that, clusters are simulated in which all nodes publish tables of
one driver: each claim waits for its turn at the driver's agent. The rest is counted: messages of
the first claims, which go to all nodes, connections, and bytes at Ray's control store. Prints a
table, and writes results/control_traffic.json.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import uuid
from typing import Any

from ray.core.generated.gcs_pb2 import GcsNodeInfo

from benchmarks.hop import RESULTS, environment
from zerrow_ray.agent import _PAUSE_SECONDS, _PAUSE_SECONDS_FOR_EACH_NODE
from zerrow_store.client.client import Client
from zerrow_store.protocol.messages import Carrier
from zerrow_store.server.supervisor import Supervisor
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import Channel, connect
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.neighbours import Neighbours
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.segment_files import FileClient
from zerrow_store.transfer.sender import Sender

NODES = 10, 100, 1000
TABLES_A_SECOND = 1, 10
"""Of each node."""

SECURITY = Security(secret=b"what the machines here know")
_ROUND_TRIP = 0.0002
_SECONDS = 20.0
_FRAME = 4 + 16 + 66
"""What a message has around it: its length, its signature, and TCP, IP and Ethernet's headers."""


class Owner:
    """Owns whatever it is asked for."""

    id = b"owner"

    def claims(self, object_id: bytes, reference: bytes) -> bool:
        return True

    def item_stored(self, object_id: bytes, reference: bytes) -> None:
        pass


def owner_site(name: str) -> None:
    """Be an owner; delete all that is there for each line that is read."""
    import zerrow_store.memory

    zerrow_store.memory.start()
    client = Client(name, owner=Owner())
    print(flush=True)
    for line in sys.stdin:
        client.delete([bytes.fromhex(each) for each in json.loads(line)], missing_ok=True)


def agent_site(name: str) -> None:
    """Be what an agent is for the owners of its machine."""
    client = FileClient(name)
    followers = Followers(client)
    client.listen(Neighbours(client, SECURITY, followers))
    print(Sender(client, SECURITY, "127.0.0.1", followers).location, flush=True)
    sys.stdin.read()


def site(what: str, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.control_traffic", "--site", what, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def measure(count: int, rounds: int) -> dict[str, float]:
    """Return the microseconds of a claim, alone and among many, and of a let-go among many."""
    name = f"control-{uuid.uuid4().hex[:8]}"
    supervisor = Supervisor(name, budget=1 << 30, watch_pid=os.getpid())
    supervisor.start()
    agent, owner = site("agent", name), site("owner", name)
    assert agent.stdout is not None
    assert owner.stdout is not None
    assert owner.stdin is not None
    alone, many, let_go = [], [], []
    try:
        location = agent.stdout.readline().strip()
        owner.stdout.readline()
        with connect(location, SECURITY) as channel:
            channel.send(m.Follow([]))
            for _ in range(rounds):
                ids = [os.urandom(16) for _ in range(count)]
                alone.append(statistics.median(_claim(channel, [each]) for each in ids[:100]))
                many.append(_claim(channel, ids[100:]) / (count - 100))
                start = time.perf_counter()
                print(json.dumps([each.hex() for each in ids]), file=owner.stdin, flush=True)
                gone = 0
                while gone < count:
                    said = channel.receive(m.OWNED)
                    gone += len(said.object_ids) if isinstance(said, m.LetGo) else 0
                let_go.append((time.perf_counter() - start) / count)
    finally:
        for each in (agent, owner):
            assert each.stdin is not None
            each.stdin.close()
            each.wait()
        supervisor.stop()
    figures = {"claim_alone_us": alone, "claim_us": many, "let_go_us": let_go}
    return {name: 1e6 * statistics.median(each) for name, each in figures.items()}


def _claim(channel: Channel, ids: list[bytes]) -> float:
    start = time.perf_counter()
    for object_id in ids:
        channel.send(m.Whose(object_id, Carrier(b"r" * 28)))
    answered = 0
    while answered < len(ids):
        said = channel.receive(m.OWNED)
        answered += isinstance(said, m.Owned)
    return time.perf_counter() - start


def simulate(nodes: int, tables: float, claim: float, seed: int = 0) -> dict[str, Any]:
    """Return how long claims take, in seconds, where all come to one agent, one after the other."""
    chance, now, free, waits = random.Random(seed), 0.0, 0.0, []
    while now < _SECONDS:
        now += chance.expovariate(nodes * tables)
        free = max(free, now + _ROUND_TRIP / 2) + claim
        waits.append(free + _ROUND_TRIP / 2 - now)
    waits.sort()
    return {
        "nodes": nodes,
        "tables_a_second": tables,
        "busy": nodes * tables * claim,
        "median_ms": 1e3 * waits[len(waits) // 2],
        "p99_ms": 1e3 * waits[len(waits) * 99 // 100],
    }


def count(nodes: int, claim: float) -> dict[str, Any]:
    """Return what does not depend on how much is published."""
    whose = len(m.encode(m.Whose(b"o" * 16, Carrier(b"r" * 28, b"w" * 28, b"n" * 28, b"g" * 16))))
    info = GcsNodeInfo(
        node_id=b"n" * 28,
        node_manager_address="10.0.0.1",
        raylet_socket_name="/tmp/ray/session_2026-01-01_00-00-00_000000_1/sockets/raylet",
        object_store_socket_name="/tmp/ray/session_2026-01-01_00-00-00_000000_1/sockets/plasma",
        node_manager_hostname="ip-10-0-0-1",
        resources_total={"CPU": 64, "memory": 2e11, "object_store_memory": 1e11},
    )
    pause = _PAUSE_SECONDS + _PAUSE_SECONDS_FOR_EACH_NODE * nodes
    return {
        "nodes": nodes,
        # Each node's first claim for a job goes to all others at once.
        "first_claims": nodes * (nodes - 1),
        "first_claims_mb": nodes * (nodes - 1) * 2 * (whose + _FRAME) / 1e6,
        # An agent is asked by all nodes, however many jobs are claimed for.
        "first_claims_seconds": (nodes - 1) * claim,
        "connections_of_the_drivers_agent": nodes - 1,
        "lists_of_nodes_a_second": nodes / pause,
        "lists_of_nodes_mb_a_second": nodes / pause * nodes * info.ByteSize() / 1e6,
        "a_node_is_known_after_seconds": pause,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--claims", type=int, default=5000)
    given = parser.parse_args()
    if given.site:
        {"owner": owner_site, "agent": agent_site}[given.site[0]](given.site[1])
        return
    costs = measure(given.claims, given.rounds)
    claim = costs["claim_us"] / 1e6
    waits = [simulate(nodes, tables, claim) for nodes in NODES for tables in TABLES_A_SECOND]
    counted = [count(nodes, claim) for nodes in NODES]
    print(json.dumps(costs, indent=1))
    for row in (*waits, *counted):
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    RESULTS.mkdir(exist_ok=True)
    record = {"environment": environment(), "costs": costs, "claims": waits, "counted": counted}
    (RESULTS / "control_traffic.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
