#!/usr/bin/env python3
"""Build the kernelzero module for Debian's kernels, boot each in QEMU and run the tests there.

Packages are downloaded into kmod/.cache and unpacked there; the host's own kernel and /usr/src
are not touched. A run passes if the test program says so and the guest's kernel log shows no
complaint. The last line is 'N passed, N failed'.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

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
}
IMAGES = {
    "6.1": r"linux-image-(6\.1\.0-\d+)-amd64$",
    "6.12": r"linux-image-(6\.12\.[\d.]+\+deb12)-amd64$",
}
COMPLAINT = re.compile(r"BUG|WARN|Oops|\bBad |cut here|general protection|Call Trace")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /small /cg; mount -t tmpfs -o size=4m tmpfs /small
mount -t cgroup2 none /cg 2>/dev/null && echo +memory > /cg/cgroup.subtree_control
for m in $(cat /modules); do insmod /lib/$m; done
echo 256M > /sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0
insmod /kernelzero.ko && /kztest %s; echo "KZ-EXIT $?"
rmmod kernelzero; echo "KZ-RMMOD $?"
echo KZ-DMESG; dmesg; echo KZ-END
echo o > /proc/sysrq-trigger; sleep 60
"""


def run(*command: str | Path, cwd: Path | None = None, **kwargs) -> str:
    """Run a command at low priority and return its output; its failure ends the run."""
    done = subprocess.run(
        ["nice", "-n", "10", *map(str, command)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def need_tools() -> None:
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing and os.geteuid():
        sys.exit(f"missing packages; as root: apt-get install {' '.join(missing)}")
    if missing:
        run("apt-get", "update")
        run("apt-get", "install", "-y", "--no-install-recommends", *missing)


def newest_version(kernel: str) -> str:
    """The newest version apt knows; what is cached serves where apt knows none."""
    names = run("apt-cache", "pkgnames", f"linux-image-{kernel}").split()
    names += [p.name.split("_")[0] for p in (CACHE / kernel).glob("linux-image-*.deb")]
    found = {m[1] for name in names if (m := re.match(IMAGES[kernel], name))}
    if not found:
        sys.exit(f"apt knows no Debian image of Linux {kernel}; run apt-get update")
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


def build(tree: Path, version: str) -> Path:
    """Compile module and test program; return the directory that holds both."""
    out = tree / "build"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for pattern in SOURCES:
        for file in KMOD.glob(pattern):
            if not file.name.endswith(".mod.c"):
                shutil.copy(file, out)
    kdir = tree / "usr/src" / f"linux-headers-{version}-amd64"
    log = run("make", "-C", kdir, f"M={out}", "CC=gcc-12", "modules")
    if "warning:" in log:
        sys.exit(f"the module compiles with warnings\n{log}")
    tests = sorted((KMOD / "tests").glob("*.c"))
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", f"-I{KMOD}")
    run("gcc-12", *flags, "-o", out / "kztest", *tests)
    return out


def initramfs(tree: Path, version: str, out: Path, arguments: str) -> Path:
    root = out / "root"
    for name in ("bin", "dev", "proc", "sys", "tmp", "lib"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for name in ("kernelzero.ko", "kztest"):
        shutil.copy(out / name, root)
    modules = []
    for name in ("zsmalloc", "zram"):
        for file in (tree / "lib/modules").rglob(f"{name}.ko*"):
            target = root / "lib" / f"{name}.ko"
            shutil.copy(file, root / "lib" / file.name)
            if file.suffix == ".xz":
                run("xz", "-d", root / "lib" / file.name)
            modules.append(target.name)
    (root / "modules").write_text("\n".join(modules))
    init = root / "init"
    init.write_text(INIT % arguments)
    init.chmod(0o755)
    image = out / "initramfs"
    run("sh", "-c", f"find . | cpio -o -H newc --quiet > {image}", cwd=root)
    return image


def boot(tree: Path, version: str, image: Path, limit: int) -> str:
    """Run the guest until it powers off; return its console. A guest that hangs is cut off."""
    command = [
        *("nice", "-n", "10", "timeout", "--kill-after=5", str(limit)),
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "768"),
        *("-kernel", str(tree / "boot" / f"vmlinuz-{version}-amd64"), "-initrd", str(image)),
        *("-append", "console=ttyS0 panic=-1 mitigations=off loglevel=4"),
        *("-nographic", "-no-reboot"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return done.stdout.decode(errors="replace").replace("\r", "")


def verdict(console: str) -> tuple[int, int, list[str]]:
    """Passed and failed test groups, and why the run is not clean."""
    tests, _, log = console.partition("KZ-DMESG")
    passed = len(re.findall(r"^ok ", tests, re.M))
    failed = len(re.findall(r"^FAILED ", tests, re.M))
    reasons = [line for line in console.splitlines() if COMPLAINT.search(line)]
    if "KZ-END" not in log:
        reasons.append("the guest did not get to its end")
    for mark in ("KZ-EXIT 0", "KZ-RMMOD 0"):
        if mark not in tests:
            reasons.append(f"no '{mark}'")
    return passed, failed + bool(reasons and not failed), reasons


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", choices=sorted(IMAGES), help="default: both")
    parser.add_argument("--fast", action="store_true", help="the short subset")
    parser.add_argument("--seed", type=int, default=1, help="of the random stress")
    parser.add_argument("--timeout", type=int, default=900, help="seconds until a guest is cut off")
    args = parser.parse_args()
    need_tools()
    total = [0, 0]
    for kernel in [args.kernel] if args.kernel else sorted(IMAGES):
        tree, version = unpacked(kernel)
        out = build(tree, version)
        image = initramfs(tree, version, out, f"{'fast' if args.fast else 'full'} {args.seed}")
        start = time.monotonic()
        console = boot(tree, version, image, args.timeout)
        (out / "console.log").write_text(console)
        passed, failed, reasons = verdict(console)
        total[0] += passed
        total[1] += failed
        print(f"{version}: {passed} ok, {failed} not, {time.monotonic() - start:.0f} s in QEMU")
        if failed:
            print(console.partition("KZ-DMESG")[0][-6000:], *reasons[:40], sep="\n")
    print(f"{total[0]} passed, {total[1]} failed")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
