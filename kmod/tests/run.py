#!/usr/bin/env python3
"""Build the kernelzero module for Debian's kernels, boot each in QEMU and run the tests there.

Packages are downloaded into kmod/.cache and unpacked there; the host's own kernel and /usr/src
are not touched. A guest passes if its tests ran and passed, none was skipped, and its kernel log
shows no complaint. Guests, per kernel: 'main' runs all groups with memory cgroups v2, then those
of error injection with the module built for that; 'zswap' those of swap and the stress with zswap
and four CPUs; 'memcg1' those of memory cgroups with v1; 'python' the store's own Python tests over
the module (see python_guest.py). --fast runs only the short groups. The last line is
'N passed, N failed'.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import python_guest

KMOD = Path(__file__).resolve().parents[1]
CACHE = KMOD / ".cache"
SOURCES = ("Kbuild", "*.c", "*.h")
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "gcc-12": "gcc-12",
    "make": "make",
    "xz": "xz-utils",
    "depmod": "kmod",
}
IMAGES = {
    "6.1": r"linux-image-(6\.1\.0-\d+)-amd64$",
    "6.12": r"linux-image-(6\.12\.[\d.]+\+deb12)-amd64$",
}
# Not 'Call Trace': the memory cgroup's OOM killer, which a test calls for, prints one.
COMPLAINT = re.compile(
    r"BUG|WARN|Oops|\bBad |cut here|general protection|negative|allocation failure|\bstall"
    r"|blocked for more"
)
MODULES = ("zram", "virtio_pci", "virtio_blk")
# What Debian's kernels can check at run time; the fast run goes without.
CHECKS = "slub_debug=FZPU page_poison=1"
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
echo KZ-DMESG; dmesg; echo KZ-END
echo o > /proc/sysrq-trigger; sleep 60
"""
CGROUP2 = "mount -t cgroup2 none /cg && echo +memory > /cg/cgroup.subtree_control"
CGROUP1 = "mount -t cgroup -o memory none /cg"
TESTS = (
    "insmod /{module}.ko && /kztest {arguments}; echo KZ-EXIT $?; "
    "rmmod kernelzero; echo KZ-RMMOD $?"
)


@dataclass(frozen=True)
class Options:
    """How a guest is booted."""

    timeout: int
    checks: str
    machine: tuple[str, ...] = ("-cpu", "max", "-smp", "2")
    memory: int = 1024
    modules: tuple[str, ...] = ()


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command at low priority and return its output; its failure ends the run."""
    done = subprocess.run(
        ["nice", "-n", "10", *map(str, command)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def need_tools() -> None:
    if not shutil.which("apt-get"):
        sys.exit(
            "the kernels and tools come from Debian 12's packages, and there is no apt-get here"
        )
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing and os.geteuid():
        sys.exit(f"missing packages; as root: apt-get install {' '.join(missing)}")
    if missing:
        run("apt-get", "update")
        run("apt-get", "install", "-y", "--no-install-recommends", *missing, "libelf1")


def known_versions(kernel: str) -> set[str]:
    """The versions that apt knows, and those in the cache."""
    names = run("apt-cache", "pkgnames", f"linux-image-{kernel}").split()
    names += [p.name.split("_")[0] for p in (CACHE / kernel).glob("linux-image-*.deb")]
    return {m[1] for name in names if (m := re.match(IMAGES[kernel], name))}


def newest_version(kernel: str) -> str:
    found = known_versions(kernel)
    if not found and not os.geteuid():
        run("apt-get", "update")
        found = known_versions(kernel)
    if not found:
        sys.exit(
            f"apt knows no Debian 12 image of Linux {kernel} (6.12 is in its security archive); "
            "as root: apt-get update"
        )
    return max(found, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def unpacked(kernel: str) -> tuple[Path, str]:
    """The tree with image, modules, headers and kbuild of a kernel, and its version."""
    version = newest_version(kernel)
    cache = CACHE / kernel
    tree = cache / version
    if (tree / "ready").exists():
        return tree, version
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    kbuild = "linux-kbuild-6.1" if kernel == "6.1" else f"linux-kbuild-{version}"
    headers = f"linux-headers-{version}"
    packages = (f"linux-image-{version}-amd64", f"{headers}-amd64", f"{headers}-common", kbuild)
    for package in packages:
        if not list(cache.glob(f"{package}_*.deb")):
            run("apt-get", "download", package, cwd=cache)
        run("dpkg", "-x", max(cache.glob(f"{package}_*.deb")), tree)
    # Debian's makefiles name /usr/src; ours lies here.
    for name in ("Makefile", ".kernelvariables"):
        file = tree / "usr/src" / f"{headers}-amd64" / name
        file.write_text(file.read_text().replace("/usr/src/", f"{tree}/usr/src/"))
    # With vmlinux there, the build makes BTF, for which it wants pahole.
    (tree / "usr/src" / f"{headers}-amd64" / "vmlinux").unlink(missing_ok=True)
    (tree / "ready").touch()
    return tree, version


def compile_module(tree: Path, version: str, out: Path, flags: str) -> None:
    for pattern in SOURCES:
        for file in KMOD.glob(pattern):
            if not file.name.endswith(".mod.c"):
                shutil.copy(file, out)
    kdir = tree / "usr/src" / f"linux-headers-{version}-amd64"
    log = run("make", "-C", kdir, f"M={out}", "CC=gcc-12", f"KCFLAGS={flags}", "modules")
    if "warning:" in log:
        sys.exit(f"the module compiles with warnings\n{log}")


def build(tree: Path, version: str) -> Path:
    """Compile module, its build for error injection, and test program; return their directory."""
    out = tree / "build"
    shutil.rmtree(out, ignore_errors=True)
    for name, flags in (("", ""), ("faults", "-DKZ_FAULTS")):
        (out / name).mkdir()
        compile_module(tree, version, out / name, flags)
    compile_program(out / "kztest", *sorted((KMOD / "tests").glob("*.c")))
    return out


def compile_program(target: Path, *sources: Path) -> None:
    options = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", f"-I{KMOD}")
    run("gcc-12", *options, "-o", target, *sources)


def kernel_modules(tree: Path, version: str, more: tuple[str, ...]) -> list[Path]:
    """The files of MODULES and `more`, and all they depend on, in order of loading."""
    release = f"{version}-amd64"
    run("depmod", "-b", tree, release)
    files: list[Path] = []
    for module in MODULES + more:
        for line in run(
            "modprobe", "--show-depends", "-d", tree, "-S", release, module
        ).splitlines():
            kind, _, file = line.strip().partition(" ")
            if kind == "insmod" and Path(file.split()[0]) not in files:
                files.append(Path(file.split()[0]))
    return files


def initramfs(
    tree: Path,
    version: str,
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
    shutil.copy(out / "kernelzero.ko", root)
    shutil.copy(out / "faults/kernelzero.ko", root / "faults.ko")
    for name in ("kztest", *programs):
        shutil.copy(out / name, root)
    names = []
    for file in kernel_modules(tree, version, modules):
        shutil.copy(file, root / "lib")
        if file.suffix == ".xz":
            run("xz", "-d", "-f", root / "lib" / file.name)
        names.append(file.name.removesuffix(".xz"))
    (root / "modules").write_text("\n".join(names))
    init = root / "init"
    init.write_text(INIT % script)
    init.chmod(0o755)
    image = out / "initramfs"
    run("sh", "-c", f"find . | cpio -o -H newc --quiet > {image}", cwd=root)
    return image


def boot(tree: Path, version: str, image: Path, options: Options) -> str:
    """Run the guest until it powers off; return its console. A guest that hangs is cut off."""
    disk = image.with_name("disk")
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    command = [
        *("nice", "-n", "10", "timeout", "--kill-after=5", str(options.timeout)),
        *("qemu-system-x86_64", "-accel", "tcg", *options.machine),
        *("-m", str(options.memory)),
        *("-kernel", str(tree / "boot" / f"vmlinuz-{version}-amd64"), "-initrd", str(image)),
        # slow, so that pages are still being written when they are looked at
        *("-drive", f"file={disk},format=raw,if=virtio,throttling.bps-write={16 << 20}"),
        *("-append", f"console=ttyS0 panic=-1 mitigations=off loglevel=4 {options.checks}"),
        *("-nographic", "-no-reboot"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return done.stdout.decode(errors="replace").replace("\r", "")


def verdict(console: str, modules: int) -> tuple[int, int, list[str]]:
    """Passed and failed test groups of a guest, and why the run is not clean."""
    tests, _, log = console.partition("KZ-DMESG")
    passed = len(re.findall(r"^ok ", tests, re.M))
    passed += sum(map(int, re.findall(r"^(\d+) passed", tests, re.M)))
    failed = len(re.findall(r"^(?:FAILED|SKIPPED) ", tests, re.M))
    reasons = [line for line in console.splitlines() if COMPLAINT.search(line)]
    if "KZ-END" not in log:
        reasons.append("the guest did not get to its end")
    for mark in ("KZ-EXIT 0", "KZ-RMMOD 0"):
        if tests.count(mark) != modules:
            reasons.append(f"not {modules} times '{mark}'")
    if "KZ-NO" in tests or not passed:
        reasons.append("a kernel module is missing, or no test ran")
    return passed, failed + bool(reasons and not failed), reasons


@dataclass(frozen=True)
class Guest:
    """What a guest runs: a cgroup mount, then modules with the tests' arguments; or Python's."""

    mount: str
    tests: tuple[tuple[str, str], ...]
    options: Options
    python: Path | None = None

    def script(self) -> str:
        """Return what the guest's shell runs."""
        lines = [TESTS.format(module=module, arguments=a) for module, a in self.tests]
        if self.python is not None:
            lines.append(python_guest.script(self.python))
        return "\n".join([self.mount, *lines])

    def modules(self) -> int:
        """Return how often a module is loaded and removed."""
        return len(self.tests) + (self.python is not None)


def guests(kernel: str, args: argparse.Namespace) -> dict[str, Guest]:
    tail = f"{args.seed} {args.seconds}"
    plain, checked = Options(args.timeout, ""), Options(args.timeout, CHECKS)
    if args.group:
        return {args.group: Guest(CGROUP2, (("faults", f"{args.group} {tail}"),), checked)}
    if args.fast:
        return {"fast": Guest(CGROUP2, (("kernelzero", f"fast {tail}"),), plain)}
    main = (("kernelzero", f"full {tail}"), ("faults", f"faults {tail}"))
    zswap = Options(args.timeout, f"{CHECKS} zswap.enabled=1", ("-cpu", "max", "-smp", "4"))
    found = {
        "main": Guest(CGROUP2, main, checked),
        "zswap": Guest(CGROUP2, (("kernelzero", f"swap {tail}"),), zswap),
    }
    if kernel == "6.1":  # Debian's 6.12 is built without memory cgroups v1
        found["memcg1"] = Guest(CGROUP1, (("kernelzero", f"memcg {tail}"),), checked)
    found["python"] = python(args)
    return {name: found[name] for name in args.guests or found}


def python(args: argparse.Namespace) -> Guest:
    """The guest of the Python tests; with all of this machine's processors, as it is slow."""
    machine = ("-cpu", "max", "-smp", str(min(4, os.cpu_count() or 1)), *python_guest.QEMU)
    options = Options(args.timeout, "", machine, 3072, python_guest.MODULES)
    return Guest(CGROUP2, (), options, python_guest.interpreter(args.python))


def run_guest(
    kernel: str, guest: str, tree: Path, version: str, out: Path, args: argparse.Namespace
) -> tuple[int, int]:
    what = guests(kernel, args)[guest]
    image = initramfs(tree, version, out, what.script(), modules=what.options.modules)
    start = time.monotonic()
    console = boot(tree, version, image, what.options)
    (out / f"console-{guest}.log").write_text(console)
    passed, failed, reasons = verdict(console, what.modules())
    seconds = time.monotonic() - start
    print(f"{version} {guest}: {passed} ok, {failed} not, {seconds:.0f} s in QEMU", flush=True)
    for line in re.findall(r"^  seed .*", console, re.M):
        print(line, flush=True)
    if failed:
        print(console.partition("KZ-DMESG")[0][-6000:], *reasons[:40], sep="\n", flush=True)
    return passed, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", choices=sorted(IMAGES), help="default: both")
    parser.add_argument("--fast", action="store_true", help="the short groups")
    parser.add_argument("--guest", dest="guests", action="append", help="only this one; repeatable")
    parser.add_argument("--python", type=Path, help="that of the 'python' guest (default: .venv's)")
    parser.add_argument("--group", help="one group alone, with the module for error injection")
    parser.add_argument("--seed", type=int, default=1, help="of the random stress")
    parser.add_argument("--seconds", type=int, default=60, help="of the random stress")
    parser.add_argument(
        "--timeout", type=int, default=1200, help="seconds until a guest is cut off"
    )
    args = parser.parse_args()
    need_tools()
    total = [0, 0]
    for kernel in [args.kernel] if args.kernel else sorted(IMAGES, key=len):
        tree, version = unpacked(kernel)
        out = build(tree, version)
        for guest in guests(kernel, args):
            passed, failed = run_guest(kernel, guest, tree, version, out, args)
            total[0] += passed
            total[1] += failed
    print(f"{total[0]} passed, {total[1]} failed")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
