"""What KernelZero costs against copying: instructions, counted in QEMU; or time, natively.

    python -m benchmarks.kernelzero             # Debian's 6.1 and 6.12, some minutes
    python -m benchmarks.kernelzero --native    # nanoseconds, where the module is loaded

Emulated figures are guest instructions of user space and kernel (`qemu -icount`): no times. They
know neither caches nor memory bandwidth, nor what a flush of other CPUs' TLBs costs.

The cost of a call over buffers is fitted (least squares of the relative error) as
    call + buffers * buffer + buffers * pages * page
and that of 1000 buffers, in one call and in 1000, as
    fixed + 1000 * pages * page
so that what calls and buffers cost, whatever their size, stands apart from what pages cost. The
latter is done for buffers side by side, for such with a gap between them, and for those of real
tables as they lay in a process (kernelzero_layouts.py), of each of which 1, 4 and 8 pages were
touched. Tables are measured with all their pages, too.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kernelzero_layouts

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results/kernelzero.json"
SOURCE = Path(__file__).with_name("kernelzero_guest.c")
_PAGE, _MIB = 4096, 1 << 20
_BUFFERS = kernelzero_layouts.BUFFERS
# Tables that fit into a guest.
LAYOUTS = ("add_80KB", "cast", "record_batches", "read_csv", "read_parquet")
_SHOWN = {_PAGE: "one page", 16 * _PAGE: "64 KiB", _MIB: "1 MiB", 64 * _MIB: "64 MiB"}

sys.path.insert(0, str(ROOT / "kmod/tests"))
import kernels  # noqa: E402
import run as runner  # noqa: E402


def write_layouts(path: Path) -> dict[str, dict[str, int]]:
    """Write how the buffers of real tables lie, for the guest; return what is known of them."""
    tables, lines = {}, []
    for name, calls in kernelzero_layouts.layouts(LAYOUTS):
        ranges = [each for call in calls for each in call]
        lines += [f"{name} {len(ranges)}", *(f"{at} {length}" for at, length in ranges)]
        tables[name] = {
            "bytes": sum(length for _, length in ranges),
            "pieces": kernelzero_layouts.pieces(ranges),
            "pieces_by_address": kernelzero_layouts.pieces(sorted(ranges)),
        }
    path.write_text("\n".join(lines) + "\n")
    return tables


def emulated(kernel: str, timeout: int) -> dict[str, Any]:
    """Count on one CPU, whose time stamp counter advances by one with each instruction.

    QEMU counts each round of a repeated instruction. Without ERMS and FSRM, memory is copied and
    zeroed by 8 bytes a round and not by one, which would make copying look worse than it is.
    """
    booted = kernels.get(kernel)
    out = booted.build()
    kernels.compile_program(out / "kzbench", SOURCE)
    tables = write_layouts(out / "layouts")
    script = "insmod /kernelzero.ko && /kzbench /layouts; rmmod kernelzero"
    image = runner.initramfs(booted, out, script, programs=("kzbench", "layouts"))
    machine = ("-cpu", "max,-erms,-fsrm", "-smp", "1", "-icount", "shift=0")
    console = runner.boot(booted, image, runner.Options(timeout, "", machine))
    found = re.search(r'^{"runs".*$', console, re.M)
    if not found:
        sys.exit(f"the benchmark did not finish\n{console[-6000:]}")
    return measured(booted.name, "guest instructions, emulated", json.loads(found[0]), tables)


def native() -> dict[str, Any]:
    """Take the time on this machine, which has the module."""
    with tempfile.TemporaryDirectory() as folder:
        program, layouts = Path(folder) / "kzbench", Path(folder) / "layouts"
        tables = write_layouts(layouts)
        subprocess.run(
            ["cc", "-O2", "-o", program, f"-I{ROOT / 'kmod'}", SOURCE], check=True, text=True
        )
        command = [program, layouts, "clock"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return measured(platform.release(), "nanoseconds", json.loads(done.stdout), tables)


def measured(
    kernel: str, unit: str, figures: dict[str, Any], tables: dict[str, dict[str, int]]
) -> dict[str, Any]:
    batches = figures["batches"]
    fits = {
        name: fit([b for b in batches if b["adjacent"] == adjacent])
        for name, adjacent in (("adjacent", True), ("apart", False))
    }
    for name, table in tables.items():
        *some, whole = (b for b in figures["layouts"] if b["name"] == name)
        tables[name] = {
            **table,
            **fixed_costs(some),
            "one_call": whole["one_call"],
            "calls": whole["calls"],
        }
    return {"kernel": kernel, "unit": unit, **figures, "fixed": fits, "tables": tables}


def fit(batches: list[dict[str, Any]]) -> dict[str, float]:
    """Return what a call, a buffer and a page cost, and the fixed cost of 1000 buffers."""
    rows = [[1, b["buffers"], b["buffers"] * b["pages"]] for b in batches]
    (call, buffer, page), error = solved(rows, [b["one_call"] for b in batches])
    return {
        "call": round(call),
        "buffer": round(buffer),
        "page": round(page),
        "largest_relative_error": round(error, 3),
        **fixed_costs([b for b in batches if b["buffers"] == _BUFFERS]),
    }


def fixed_costs(batches: list[dict[str, Any]]) -> dict[str, float]:
    """Return what does not depend on the number of pages, of one call and of a call for each."""
    rows = [[1, b["pages"]] for b in batches]
    (one, _), _ = solved(rows, [b["one_call"] for b in batches])
    (each, _), _ = solved(rows, [b["calls"] for b in batches])
    return {
        "fixed_of_one_call": round(one),
        "fixed_of_calls": round(each),
        "calls_over_one_call": round(each / one, 2),
    }


def solved(rows: list[list[int]], costs: list[int]) -> tuple[list[float], float]:
    """Return the coefficients that fit the costs best, and the largest relative error."""
    matrix = np.array(rows, float) / np.array(costs, float)[:, None]
    found, *_ = np.linalg.lstsq(matrix, np.ones(len(costs)), rcond=None)
    return list(map(float, found)), float(np.abs(matrix @ found - 1).max())


def show(results: list[dict[str, Any]]) -> None:
    for result in results:
        print(f"\nLinux {result['kernel']}: {result['unit']}, per 4 KiB page")
        print(f"{'':18}" + "".join(f"{name:>10}" for name in _SHOWN.values()))
        for way, by_size in result["per_page"].items():
            cells = (str(by_size.get(str(size), "")) for size in _SHOWN)
            print(f"{way:18}" + "".join(f"{cell:>10}" for cell in cells))
        for name, fixed in result["fixed"].items():
            print(
                f"buffers {name}: a call {fixed['call']}, a buffer {fixed['buffer']}, a page "
                f"{fixed['page']}; fixed cost of 1000 buffers: {fixed['fixed_of_one_call']} in one "
                f"call, {fixed['fixed_of_calls']} in 1000, {fixed['calls_over_one_call']} times"
            )
        for name, table in result["tables"].items():
            print(
                f"{name}, {table['pieces']} pieces: fixed cost {table['fixed_of_one_call']} in one "
                f"call, {table['fixed_of_calls']} in 1000, {table['calls_over_one_call']} times; "
                f"with all pages {table['one_call']} and {table['calls']}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--native", action="store_true", help="time, on this machine's module")
    parser.add_argument("--kernel", choices=sorted(kernels.IMAGES), help="default: both")
    parser.add_argument(
        "--timeout", type=int, default=1800, help="seconds until a guest is cut off"
    )
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.native:
        results = [native()]
    else:
        kernels.need_tools()
        every = [args.kernel] if args.kernel else sorted(kernels.IMAGES, key=len)
        results = [emulated(kernel, args.timeout) for kernel in every]
    show(results)
    revision = kernels.run("git", "-C", ROOT, "describe", "--always", "--dirty").strip()
    args.output.write_text(json.dumps({"revision": revision, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
