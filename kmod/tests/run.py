#!/usr/bin/env python3
"""Build the kernelzero module for Debian's kernels, boot each in QEMU and run the tests there.

A guest passes if its tests ran and passed, none was skipped, and its kernel log shows no complaint.
Guests, per kernel: 'main' runs all groups with memory cgroups v2, then those
of error injection with the module built for that; 'zswap' those of swap and the stress with zswap
and four CPUs; 'memcg1' those of memory cgroups with v1; 'python' the store's own Python tests over
the module, and 'huge' those of huge pages (see python_guest.py). Debian 11's 5.10, the oldest
kernel that the store is for, has 'huge' alone; where it cannot be had, it is skipped, and the last
lines say so. --fast runs only the short groups, of the module; --debug all groups but Python's on
the debug kernel (see kernels.py). The last line is 'N passed, N failed, N skipped'.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import debian11
import kernels
import python_guest
from kernels import Kernel

# Not 'Call Trace': the memory cgroup's OOM killer, which a test calls for, prints one.
COMPLAINT = re.compile(
    r"BUG|WARN|Oops|\bBad |cut here|general protection|negative|allocation failure|\bstalls? on\b"
    r"|blocked for more"
)
MODULES = ("zram", "virtio_pci", "virtio_blk")
# What Debian's kernels can check at run time; the fast run goes without.
CHECKS = "slub_debug=FZPU page_poison=1"
# An emulated processor may stand still for long on a busy machine, which is no lockup.
PATIENCE = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300"
DISK_MIB = 128
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /small /medium /cg
mount -t tmpfs -o size=4m tmpfs /small; mount -t tmpfs -o size=36m tmpfs /medium
for m in $(cat /modules); do insmod /lib/$m || echo "KZ-NO $m"; done
echo 512M > /sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0
mkswap /dev/vda >/dev/null; echo
%s
grep -qs 'debug_locks: *0' /proc/lockdep_stats && echo KZ-NO lockdep, it turned itself off
echo KZ-DMESG; dmesg; echo KZ-END
echo o > /proc/sysrq-trigger; sleep 60
"""
CGROUP2 = "mount -t cgroup2 none /cg && echo +memory > /cg/cgroup.subtree_control"
CGROUP1 = "mount -t cgroup -o memory none /cg"
TESTS = (
    "insmod /{module}.ko && /kztest {arguments}; echo KZ-EXIT $?; "
    "rmmod kernelzero; echo KZ-RMMOD $?"
)
UNTESTED = """insmod /untested.ko && echo KZ-NO refusal
dmesg | grep -q 'kernelzero: tested with' || echo KZ-NO message of refusal
insmod /untested.ko allow_untested=1 && rmmod kernelzero || echo KZ-NO untested"""


@dataclass(frozen=True)
class Options:
    """How a guest is booted."""

    timeout: int
    checks: str
    machine: tuple[str, ...] = ("-cpu", "max", "-smp", "2")
    memory: int = 1024
    modules: tuple[str, ...] = ()


def initramfs(
    kernel: Kernel,
    out: Path,
    script: str,
    *,
    modules: tuple[str, ...] = (),
    programs: tuple[str, ...] = (),
) -> Path:
    """Return an image that boots into the script; programs lie in `out`."""
    root = out / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "tmp", "lib"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    if kernel.headers is not None:
        shutil.copy(out / "kernelzero.ko", root)
        for build in ("faults", "untested"):
            shutil.copy(out / build / "kernelzero.ko", root / f"{build}.ko")
        for name in ("kztest", *programs):
            shutil.copy(out / name, root)
    names = []
    for file in kernel.modules(MODULES + modules):
        shutil.copy(file, root / "lib")
        if file.suffix == ".xz":
            kernels.run("xz", "-d", "-f", root / "lib" / file.name)
        names.append(file.name.removesuffix(".xz"))
    (root / "modules").write_text("\n".join(names))
    init = root / "init"
    init.write_text(INIT % script)
    init.chmod(0o755)
    image = out / "initramfs"
    kernels.run("sh", "-c", f"find . | cpio -o -H newc --quiet > {image}", cwd=root)
    return image


def boot(kernel: Kernel, image: Path, options: Options) -> str:
    """Run the guest until it powers off; return its console. A guest that hangs is cut off."""
    disk = image.with_name("disk")
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    command = [
        *("nice", "-n", "10", "timeout", "--kill-after=5", str(options.timeout)),
        *("qemu-system-x86_64", "-accel", "tcg", *options.machine),
        *("-m", str(options.memory)),
        *("-kernel", str(kernel.image), "-initrd", str(image)),
        # slow, so that pages are still being written when they are looked at
        *("-drive", f"file={disk},format=raw,if=virtio,throttling.bps-write={16 << 20}"),
        "-append",
        f"console=ttyS0 panic=-1 mitigations=off loglevel=4 {PATIENCE} {options.checks}",
        *("-nographic", "-no-reboot"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return done.stdout.decode(errors="replace").replace("\r", "")


def verdict(console: str, runs: int, modules: int) -> tuple[int, int, list[str]]:
    """Passed and failed test groups of a guest, and why the run is not clean.

    runs: how often tests are run; modules: how often a module is removed.
    """
    tests, _, log = console.partition("KZ-DMESG")
    passed = len(re.findall(r"^ok ", tests, re.M))
    passed += sum(map(int, re.findall(r"^(\d+) passed", tests, re.M)))
    failed = len(re.findall(r"^(?:FAILED|SKIPPED) ", tests, re.M))
    reasons = [line for line in console.splitlines() if COMPLAINT.search(line)]
    if "KZ-END" not in log:
        reasons.append("the guest did not get to its end")
    for mark, times in (("KZ-EXIT 0", runs), ("KZ-RMMOD 0", modules)):
        if tests.count(mark) != times:
            reasons.append(f"not {times} times '{mark}'")
    reasons += re.findall(r"^KZ-NO .*", tests, re.M)
    if not passed:
        reasons.append("no test ran")
    return passed, failed + bool(reasons and not failed), reasons


@dataclass(frozen=True)
class Guest:
    """What a guest runs: a cgroup mount, then modules with the tests' arguments; or Python's."""

    mount: str
    tests: tuple[tuple[str, str], ...]
    options: Options
    python: Path | None = None
    suite: python_guest.Suite | None = None

    def script(self) -> str:
        """Return what the guest's shell runs."""
        lines = [UNTESTED] if self.modules() else []
        lines += [TESTS.format(module=module, arguments=a) for module, a in self.tests]
        if self.python is not None and self.suite is not None:
            lines.append(python_guest.script(self.python, self.suite))
        return "\n".join([self.mount, *lines])

    def runs(self) -> int:
        """Return how often tests are run."""
        return len(self.tests) + (self.suite is not None)

    def modules(self) -> int:
        """Return how often a module is loaded for tests, and removed."""
        return len(self.tests) + (self.suite is not None and self.suite.module)


def guests(kernel: str, args: argparse.Namespace) -> dict[str, Guest]:
    """The guests of a kernel, by name: of those that were asked for, the ones that it has."""
    suites = {"python": python_guest.MOVING, "huge": python_guest.HUGE}
    if args.groups or args.fast or kernel == kernels.DEBUG:  # too slow for Python
        suites = {}
    elif kernel == kernels.OLDEST:
        del suites["python"]
    found = {} if kernel == kernels.OLDEST else module_guests(kernel, args)
    asked = args.guests or (["main"] if args.groups else [*found, *suites])
    wanted = {name: guest for name, guest in found.items() if name in asked}
    return wanted | {name: python(args, suites[name]) for name in suites if name in asked}


def module_guests(kernel: str, args: argparse.Namespace) -> dict[str, Guest]:
    """The guests that run the module's own tests."""
    tail = f"{args.seed} {args.seconds}"
    plain, checked = Options(args.timeout, ""), Options(args.timeout, CHECKS)
    if kernel == kernels.DEBUG:  # which looks for more itself
        checked = Options(args.timeout, "page_poison=1", memory=3072)
    main = (("kernelzero", f"full {tail}"), ("faults", f"faults {tail}"))
    zswap = Options(args.timeout, f"{CHECKS} zswap.enabled=1", ("-cpu", "max", "-smp", "4"))
    found = {
        "main": Guest(CGROUP2, main, checked),
        "zswap": Guest(CGROUP2, (("kernelzero", f"swap {tail}"),), zswap),
    }
    if kernel == "6.1":  # Debian's 6.12 is built without memory cgroups v1
        found["memcg1"] = Guest(CGROUP1, (("kernelzero", f"memcg {tail}"),), checked)
    if args.groups:
        tests = tuple(("faults", f"{group} {tail}") for group in args.groups)
        return {name: replace(guest, tests=tests) for name, guest in found.items()}
    if args.fast:
        return {"fast": Guest(CGROUP2, (("kernelzero", f"fast {tail}"),), plain)}
    if kernel == kernels.DEBUG:
        return {"main": found["main"]}
    return found


def python(args: argparse.Namespace, suite: python_guest.Suite) -> Guest:
    """A guest of Python tests; with all of this machine's processors, as it is slow."""
    machine = ("-cpu", "max", "-smp", str(min(4, os.cpu_count() or 1)), *python_guest.QEMU)
    options = Options(args.timeout, "", machine, 3072, python_guest.MODULES)
    return Guest(CGROUP2, (), options, python_guest.interpreter(args.python), suite)


def run_guest(kernel: Kernel, guest: str, what: Guest, out: Path) -> tuple[int, int]:
    image = initramfs(kernel, out, what.script(), modules=what.options.modules)
    start = time.monotonic()
    console = boot(kernel, image, what.options)
    (out / f"console-{guest}.log").write_text(console)
    passed, failed, reasons = verdict(console, what.runs(), what.modules())
    seconds = time.monotonic() - start
    print(f"{kernel.name} {guest}: {passed} ok, {failed} not, {seconds:.0f} s in QEMU", flush=True)
    for line in re.findall(r"^  seed .*", console, re.M):
        print(line, flush=True)
    if failed:
        print(console.partition("KZ-DMESG")[0][-6000:], *reasons[:40], sep="\n", flush=True)
    return passed, failed


def main() -> int:
    names = [*sorted(kernels.IMAGES, key=len), kernels.OLDEST]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", choices=names, help="default: all")
    parser.add_argument("--debug", action="store_true", help="the debug kernel")
    parser.add_argument("--fast", action="store_true", help="the short groups")
    parser.add_argument("--guest", dest="guests", action="append", help="only this one; repeatable")
    parser.add_argument("--python", type=Path, help="that of the 'python' guest (default: .venv's)")
    parser.add_argument(
        "--group",
        dest="groups",
        action="append",
        help="only this one, with the module for error injection, in 'main' or --guest; repeatable",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random stress")
    parser.add_argument("--seconds", type=int, default=60, help="of the random stress")
    parser.add_argument(
        "--timeout", type=int, default=1200, help="seconds until a guest is cut off"
    )
    args = parser.parse_args()
    every = [kernels.DEBUG] if args.debug else names
    wanted_of = {name: guests(name, args) for name in ([args.kernel] if args.kernel else every)}
    there = {guest for wanted in wanted_of.values() for guest in wanted}
    if missing := sorted(set(args.guests or ()) - there):
        parser.error(f"no guest {', '.join(missing)} on {', '.join(wanted_of)} with these options")
    kernels.need_tools()
    total = [0, 0]
    skipped = []
    for name, wanted in wanted_of.items():
        if not wanted:
            continue
        try:
            kernel = kernels.get(name)
        except debian11.UnavailableError as error:
            skipped.append(f"SKIPPED {name} {' '.join(wanted)}: {error}")
            continue
        out = kernel.build()
        for guest, what in wanted.items():
            passed, failed = run_guest(kernel, guest, what, out)
            total[0] += passed
            total[1] += failed
    print(*skipped, f"{total[0]} passed, {total[1]} failed, {len(skipped)} skipped", sep="\n")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
