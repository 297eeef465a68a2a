"""`make bench-transfer`: an object from one node's store to another's, in several ways.

Two machines, each a process with a store of its own, over loopback and, as root, over a veth pair
between two network namespaces with a token bucket of 10 Gbit/s in both directions. The ways come
alternately, in rounds; each gets a fresh object each time, in memory that is warm at both ends.
Prints medians, and writes seconds, and processor seconds of both machines, with quartiles to
results/transfer.json.

    plain       as it is: agents, sendfile, checksums
    1, 2, 4     with so many connections, whatever the size
    tls         encrypted
    flight      Arrow Flight in its own threads; what it has received is copied to the arena
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.hop import RESULTS, environment

KIB, MIB = 1 << 10, 1 << 20
SIZES = [64 * KIB, MIB, 16 * MIB, 128 * MIB, 1024 * MIB]
WAYS: dict[str, tuple[str, int]] = {
    "plain": ("plain", 0),
    "1": ("plain", 1),
    "2": ("plain", 2),
    "4": ("plain", 4),
    "tls": ("tls", 0),
    "flight": ("flight", 0),
}
LOOPBACK = "127.0.0.1"
_NAMES = "zerrow-bench-a", "zerrow-bench-b"
_ADDRESSES = "10.77.77.1", "10.77.77.2"


class Machine:
    """A process of `benchmarks.transfer_site`; what it does are its methods there."""

    def __init__(self, address: str, folder: Path, prefix: list[str]) -> None:
        tls = certificate(folder, address)
        command = [*prefix, sys.executable, "-m", "benchmarks.transfer_site", address, *tls]
        pipe = subprocess.PIPE
        # What is freed stays warm until it is needed again, also on a busy machine.
        environ = os.environ | {"ZERROW_DECAY_MS": "30000"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ)
        self._answer()

    def ask(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        print(json.dumps([name, *arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def certificate(folder: Path, address: str) -> list[str]:
    """Return paths of a certificate that is its own authority, its key, and itself again."""
    own = tempfile.mkdtemp(dir=folder)
    pem, key, both = f"{own}/certificate.pem", f"{own}/key.pem", str(folder / "both.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", pem]
    command += ["-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"]
    subprocess.run(command, check=True, capture_output=True)
    with open(both, "a") as file:
        file.write(Path(pem).read_text())
    return [pem, key, both]


@contextmanager
def namespaces(rate: str) -> Iterator[None]:
    """Two network namespaces, joined by a link of this rate."""
    near, far = _NAMES
    commands = [f"netns add {near}", f"netns add {far}"]
    commands += [f"link add {near[-6:]} netns {near} type veth peer name {far[-6:]} netns {far}"]
    for name, address in zip(_NAMES, _ADDRESSES, strict=True):
        commands += [f"-n {name} addr add {address}/24 dev {name[-6:]}"]
        commands += [f"-n {name} link set {name[-6:]} up", f"-n {name} link set lo up"]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        for name in _NAMES:
            limit = f"root tbf rate {rate} burst 4mb latency 50ms"
            shape = ["tc", "-n", name, "qdisc", "add", "dev", name[-6:], *limit.split()]
            subprocess.run(shape, check=True)
        yield
    finally:
        for name in _NAMES:
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "del", name], check=True)


def measure(there: Machine, here: Machine, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Return figures by size and way."""
    locations = there.ask("serve")
    results: dict[str, Any] = {}
    for size in sizes:
        runs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for n in range(rounds + 1):
            for name, (way, streams) in WAYS.items():
                # As often as makes a time that a clock of processor time can tell.
                count = 1 + max(1, min(50, 16 * MIB // size))
                run = [fetch(there, here, way, streams, locations[way], size) for _ in range(count)]
                if n:  # the first round warms up, and so does the first of each way
                    runs[name].append(mean(run[1:]))
        results[str(size)] = {name: summary(each, size) for name, each in runs.items()}
        row = {name: figures["seconds"][1] for name, figures in results[str(size)].items()}
        print(f"{size:>11,}", *(f"{name} {1e3 * s:.2f} ms" for name, s in row.items()), flush=True)
    return results


def fetch(
    there: Machine, here: Machine, way: str, streams: int, location: str, size: int
) -> tuple[float, float]:
    """Return seconds, and processor seconds of both machines."""
    store = "tls" if way == "tls" else "plain"
    object_id, allocations = there.ask("publish", store, size)
    for machine in (there, here):
        machine.ask("find_processes")
    before = there.ask("cpu") + here.ask("cpu")
    seconds = here.ask("fetch", way, streams, location, object_id, allocations)
    cpu = there.ask("cpu") + here.ask("cpu") - before
    there.ask("delete", store, object_id)
    return seconds, cpu


def mean(runs: list[tuple[float, float]]) -> tuple[float, float]:
    seconds, cpu = zip(*runs, strict=True)
    return statistics.fmean(seconds), statistics.fmean(cpu)


def summary(runs: list[tuple[float, float]], size: int) -> dict[str, Any]:
    """Return quartiles, and GiB a second and processor seconds for a GiB at the median."""
    seconds, cpu = (quartiles(list(each)) for each in zip(*runs, strict=True))
    gib = size / (1 << 30)
    per_gib = {"gib_per_second": gib / seconds[1], "cpu_per_gib": cpu[1] / gib}
    return {"seconds": seconds, "cpu_seconds": cpu, "n": len(runs), **per_gib}


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rate", default="10gbit")
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "rate": options.rate, "links": {}}
    links = ["loopback", options.rate] if os.geteuid() == 0 else ["loopback"]
    for link in links:
        print(link)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            addresses, prefixes = (LOOPBACK, LOOPBACK), [[], []]
            if link != "loopback":
                stack.enter_context(namespaces(options.rate))
                addresses = _ADDRESSES
                prefixes = [["ip", "netns", "exec", name] for name in _NAMES]
            machines = []
            for address, prefix in zip(addresses, prefixes, strict=True):
                machines.append(Machine(address, folder, prefix))
                stack.callback(machines[-1].close)
            there, here = machines
            record["links"][link] = measure(there, here, options.sizes, options.rounds)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "transfer.json"
    path.write_text(json.dumps(record, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
