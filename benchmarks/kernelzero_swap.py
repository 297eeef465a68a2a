"""Swap-ins of a single DAG with and without KernelZero, counted in a guest of QEMU.

    python -m benchmarks.kernelzero_swap [--kernel 6.12] [--rounds 3] [--mib 32]

Boots a kernel with the module and with swap on zram, as `make test-kernel` does, and runs
kernelzero_swap_guest.py there: all sides take turns in one guest. Prints medians, and writes all
runs to benchmarks/results/kernelzero-swap.json. These are counts; emulation says nothing of times.
"""

import argparse
import json
import platform
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.kernelzero_swap_guest import ENVIRON, Figures

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results/kernelzero-swap.json"

sys.path.insert(0, str(ROOT / "kmod/tests"))  # where these are
import kernels  # noqa: E402
import python_guest  # noqa: E402
import run as runner  # noqa: E402

Runs = dict[str, dict[str, list[Figures]]]
"""By side and point, the figures of each round."""


def count(kernel: str, sides: list[str], *, nbytes: int, rounds: int, timeout: int) -> Runs:
    """Boot the guest, whose module was built before, and run all sides in it."""
    booted = kernels.get(kernel)
    python = python_guest.interpreter(None)
    arguments = f"{nbytes} {rounds} {' '.join(sides)}"
    command = f"{python} -m benchmarks.kernelzero_swap_guest {arguments}"
    environ = {"ZERROW_HUGE_PAGES": "off"}
    script = f"{runner.CGROUP2}\n{python_guest.in_host(command, environ, module=True)}"
    out = booted.tree / "build"
    image = runner.initramfs(booted, out, script, modules=python_guest.MODULES)
    # One processor: the DAG's nodes come one after the other, and counts vary less.
    options = runner.Options(timeout, "", ("-cpu", "max", *python_guest.QEMU), 3072)
    console = runner.boot(booted, image, options)
    (out / "console-swap.log").write_text(console)
    complaints = [line for line in console.splitlines() if runner.COMPLAINT.search(line)]
    if complaints or "KZ-EXIT 0" not in console:
        sys.exit("\n".join(["the guest did not finish", *complaints, console[-6000:]]))
    return found_in(console)


def found_in(console: str) -> Runs:
    """Return what a guest has printed."""
    runs: Runs = {}
    for line in re.findall(r'^{"side".*}$', console, re.M):
        found = json.loads(line)
        for point, figures in found["points"].items():
            runs.setdefault(found["side"], {}).setdefault(point, []).append(figures)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", choices=sorted(kernels.IMAGES), help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=32, help="the size of the table")
    parser.add_argument(
        "--timeout", type=int, default=3600, help="seconds until a guest is cut off"
    )
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    kernels.need_tools()
    results: list[dict[str, Any]] = []
    for name in [args.kernel] if args.kernel else sorted(kernels.IMAGES, key=len):
        kernel = kernels.get(name)
        kernel.build()
        sizes = {"nbytes": args.mib << 20, "rounds": args.rounds}
        runs = count(name, list(ENVIRON), **sizes, timeout=args.timeout)
        results.append({"kernel": kernel.name, **sizes, "runs": runs})
        show(kernel.name, runs)
    revision = kernels.run("git", "-C", ROOT, "describe", "--always", "--dirty").strip()
    known = {"revision": revision, "host": platform.release(), "results": results}
    args.output.write_text(json.dumps(known, indent=1) + "\n")


def show(kernel: str, runs: Runs) -> None:
    """Print medians."""
    print(f"\nLinux {kernel}: medians, in pages and faults")
    names = ("swap_ins", "swap_outs", "major")
    print(f"{'':30}" + "".join(f"{name:>12}" for name in names))
    for side, points in runs.items():
        for point, found in points.items():
            medians = (statistics.median(figures[name] for figures in found) for name in names)
            print(f"{side + ', ' + point:30}" + "".join(f"{each:>12.0f}" for each in medians))


if __name__ == "__main__":
    main()
