"""`make bench-cluster`: objects between the nodes of a cluster, on plain Ray and with the plugin.

As root on one host: each node is a network namespace with a raylet of its own; a bridge joins them,
and token buckets limit what each sends and receives. CLUSTER="--address HOST:PORT" runs the same
cases over a cluster that is there, from one of its nodes. Both sides' drivers run alternately, in
processes of their own; on one host each run has a Ray of its own, too, since what a Ray has once
used of its object store stays in memory. Prints medians; writes seconds, bytes on the wire,
processor seconds and peak memory of every node to results/cluster.json, and a plot.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cluster_cases import CASES, GIB, KIB, MIB
from benchmarks.hop import RESULTS, environment
from benchmarks.sides import Found, ratio_plot, run_rounds

RATES = ["1gbit", "10gbit", "unlimited"]
SIZES = [64 * KIB, MIB, 4 * MIB, 16 * MIB, 128 * MIB, GIB, 2 * GIB]
_PORT = 6379
_BRIDGE = "zerrow-cluster"
_START_SECONDS = 120


def _name(node: int) -> str:
    return f"{_BRIDGE}-{node}"


def _address(node: int) -> str:
    return f"10.76.76.{node + 1}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def namespaces(count: int, rate: str) -> Iterator[None]:
    """So many network namespaces on a bridge, which has one, too: all goes with them."""
    try:
        _run("ip", "netns", "add", _BRIDGE)
        _run("ip", "-n", _BRIDGE, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", _BRIDGE, "link", "set", "bridge", "up")
        for node in range(count):
            _add_node(node, rate)
        yield
    finally:
        for name in (*map(_name, range(count)), _BRIDGE):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", name)


def _add_node(node: int, rate: str) -> None:
    name, port = _name(node), f"port{node}"
    _run("ip", "netns", "add", name)
    veth = ["type", "veth", "peer", "name", port, "netns", _BRIDGE]
    _run("ip", "link", "add", "eth0", "netns", name, *veth)
    _run("ip", "-n", name, "addr", "add", f"{_address(node)}/24", "dev", "eth0")
    _run("ip", "-n", _BRIDGE, "link", "set", port, "master", "bridge")
    for where, link in [(name, "lo"), (name, "eth0"), (_BRIDGE, port)]:
        _run("ip", "-n", where, "link", "set", link, "up")
    if rate != "unlimited":
        limit = ["root", "tbf", "rate", rate, "burst", "4mb", "latency", "50ms"]
        for where, link in [(name, "eth0"), (_BRIDGE, port)]:  # what it sends, and receives
            _run("tc", "-n", where, "qdisc", "add", "dev", link, *limit)


@contextmanager
def rays(count: int, plasma: int, folder: Path) -> Iterator[str]:
    """A Ray over these namespaces; yields its address."""
    address = f"{_address(0)}:{_PORT}"
    with ExitStack() as stack:
        for node in range(count):
            stack.callback(_end, _start_ray(node, address, plasma, folder))
            _wait_for_nodes(node + 1, address)
        yield address


def _start_ray(node: int, address: str, plasma: int, folder: Path) -> "subprocess.Popen[bytes]":
    command = ["ip", "netns", "exec", _name(node), sys.executable, "-m", "ray.scripts.scripts"]
    command += ["start", "--block", "--disable-usage-stats", f"--node-ip-address={_address(node)}"]
    command += ["--num-cpus=1", f"--object-store-memory={plasma}"]
    if node == 0:
        command += ["--head", f"--port={_PORT}", "--include-dashboard=false"]
        command += [f"--temp-dir={folder}"]
    else:
        command += [f"--address={address}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()


def _wait_for_nodes(count: int, address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    command = ["ip", "netns", "exec", _name(0), sys.executable, "-m", "benchmarks.cluster_cases"]
    command += ["--address", address, "--await-nodes", str(count)]
    while subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"node {count} did not start in {_START_SECONDS} s")


def _cases(options: argparse.Namespace) -> list[str]:
    chosen = ["--scale", str(options.scale), "--sizes", *map(str, options.sizes)]
    return [*chosen, "--cases", *options.cases]


def _driver(address: str, side: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.cluster_cases", "--address", address]
    return [*command, "--side", side, *_cases(options)]


def run_in_namespaces(rate: str, options: argparse.Namespace) -> Found:
    """Run all cases on both sides, each over a Ray of its own."""
    command = [sys.executable, "-m", "benchmarks.cluster", "--nodes", str(options.nodes)]
    command += ["--plasma", str(options.plasma), *_cases(options)]
    with namespaces(options.nodes, rate):
        return run_rounds(options.rounds, lambda side: [*command, "--side", side])


def run_side(options: argparse.Namespace) -> None:
    """Run one side over a Ray of its own, in namespaces that are there."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # nobody else is on this network
    with (
        tempfile.TemporaryDirectory(prefix="zr") as folder,
        rays(options.nodes, options.plasma, Path(folder)) as address,
    ):
        driver = _driver(address, options.side, options)
        subprocess.run(["ip", "netns", "exec", _name(0), *driver], check=True)


def median(rounds: list[dict[str, Any]], what: str) -> float:
    return statistics.median(each[what] for each in rounds)


def print_report(found: Found) -> None:
    """Print a line a case: plain Ray's figure, and the plugin's."""
    columns = {"s": ("seconds", 1), "source sent, MiB": ("source_sent", MIB)}
    columns |= {"all sent, MiB": ("sent", MIB), "CPU s": ("cpu_seconds", 1)}
    columns |= {"peak, MiB": ("peak_memory", MIB)}
    print(f"{'case':28}", *(f"{name:>20}" for name in columns), sep="")
    for case, sides in found.items():
        cells = [
            "/".join(f"{median(sides[side], what) / unit:.3g}" for side in ("plain", "zerrow"))
            for what, unit in columns.values()
        ]
        print(f"{case:28}", *(f"{cell:>20}" for cell in cells), sep="", flush=True)


def plot(links: dict[str, Found], path: Path) -> None:
    """Draw, for each link and case, how many times as quick as plain Ray the plugin is."""
    names = list(next(iter(links.values())))[::-1]
    label = "times as quick as plain Ray (right of the line: quicker)"
    with ratio_plot(names, label, path) as axes:
        for link, found in links.items():
            ratios = [
                median(found[case]["plain"], "seconds") / median(found[case]["zerrow"], "seconds")
                for case in names
            ]
            axes.plot(ratios, range(len(names)), "o", label=link)
        axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", help="of a cluster that is there, instead of namespaces")
    parser.add_argument("--nodes", type=int, default=9)
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="point to point")
    parser.add_argument("--scale", type=float, default=1.0, help="of all other sizes; 1: 1 GiB")
    parser.add_argument("--plasma", type=int, default=3 * GIB, help="of each node, in bytes")
    parser.add_argument("--side", choices=["plain", "zerrow"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return
    if not options.address and os.geteuid() != 0:
        print(
            "skipped: network namespaces can be made by root only; "
            'CLUSTER="--address HOST:PORT" measures a cluster that is there'
        )
        return
    links: dict[str, Found] = {}
    for rate in [options.address] if options.address else options.rates:
        print(rate, file=sys.stderr)
        if options.address:
            drivers = partial(_driver, options.address, options=options)
            links[rate] = run_rounds(options.rounds, drivers)
        else:
            links[rate] = run_in_namespaces(rate, options)
        print(rate)
        print_report(links[rate])
    RESULTS.mkdir(exist_ok=True)
    record = {"environment": environment(), "load": os.getloadavg(), "options": vars(options)}
    (RESULTS / "cluster.json").write_text(json.dumps(record | {"links": links}, indent=1))
    plot(links, RESULTS / "cluster.svg")
    print(f"written to {RESULTS / 'cluster.json'}")


if __name__ == "__main__":
    main()
