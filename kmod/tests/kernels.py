"""The kernels that guests boot: Debian's images, and a debug kernel built from Debian's source.

Packages are downloaded into kmod/.cache and unpacked there; the host's own kernel and /usr/src are
not touched. The module is for Debian 12's kernels, and not for Debian 11's (debian11.py). The debug
kernel (debug.config: KASAN, lockdep, checks of memory management) is built once for each version of
the source and of its configuration; that takes half an hour on two cores.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import debian11

KMOD = Path(__file__).resolve().parents[1]
CACHE = KMOD / ".cache"
SOURCES = ("Kbuild", "*.c", "*.h")
BUILDS = {"": "", "faults": "-DKZ_FAULTS", "untested": "-DKZ_TESTED=0"}
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "gcc-12": "gcc-12",
    "nm": "binutils",
    "make": "make",
    "xz": "xz-utils",
    "depmod": "kmod",
}
BUILD_TOOLS = {"flex": "flex", "bison": "bison", "bc": "bc", "/usr/include/gelf.h": "libelf-dev"}
IMAGES = {
    "6.1": r"linux-image-(6\.1\.0-\d+)-amd64$",
    "6.12": r"linux-image-(6\.12\.[\d.]+\+deb12)-amd64$",
}
OLDEST = "5.10"
DEBUG = "6.12-debug"
SOURCE = "linux-source-6.12"


@dataclass(frozen=True)
class Kernel:
    """A kernel.

    headers: what the module is built against, None if it is not for this kernel; release: '' if
    the kernel has no modules of its own.
    """

    name: str
    tree: Path
    image: Path
    headers: Path | None
    release: str

    def modules(self, wanted: tuple[str, ...]) -> list[Path]:
        """Return the files of modules, and of all they depend on, in order of loading."""
        if not self.release:
            return []
        run("depmod", "-b", self.tree, self.release)
        files: list[Path] = []
        show = ("modprobe", "--show-depends", "-d", self.tree, "-S", self.release)
        for module in wanted:
            for line in run(*show, module).splitlines():
                kind, _, file = line.strip().partition(" ")
                if kind == "insmod" and Path(file.split()[0]) not in files:
                    files.append(Path(file.split()[0]))
        return files

    def build(self) -> Path:
        """Compile module, its builds for the tests, and test program; return the directory."""
        out = self.tree / "build"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if self.headers is None:
            return out
        for name, flags in BUILDS.items():
            (out / name).mkdir(exist_ok=True)
            self._compile_module(self.headers, out / name, flags)
        compile_program(out / "kztest", *sorted((KMOD / "tests").glob("*.c")))
        return out

    def _compile_module(self, headers: Path, out: Path, flags: str) -> None:
        for pattern in SOURCES:
            for file in KMOD.glob(pattern):
                if not file.name.endswith(".mod.c"):
                    shutil.copy(file, out)
        options = (f"M={out}", "CC=gcc-12", f"KCFLAGS={flags}", "modules")
        log = run("make", "-C", headers, *options)
        if "warning:" in log:
            sys.exit(f"the module compiles with warnings\n{log}")
        if "__x86_indirect_thunk" in run("nm", "-u", out / "kernelzero.ko"):
            sys.exit("the module calls by a pointer, which IBT may forbid: see compat.h")


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


def compile_program(target: Path, *sources: Path) -> None:
    """Compile a static program for guests."""
    options = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", f"-I{KMOD}")
    run("gcc-12", *options, "-o", target, *sources)


def need_tools(tools: dict[str, str] = TOOLS) -> None:
    """Install what is missing, by the names of programs and their packages; or say what is."""
    if not shutil.which("apt-get"):
        sys.exit(
            "the kernels and tools come from Debian 12's packages, and there is no apt-get here"
        )
    have = {tool for tool in tools if shutil.which(tool) or Path(tool).exists()}
    missing = sorted({package for tool, package in tools.items() if tool not in have})
    if missing and os.geteuid():
        sys.exit(f"missing packages; as root: apt-get install {' '.join(missing)}")
    if missing:
        run("apt-get", "update")
        run("apt-get", "install", "-y", "--no-install-recommends", *missing, "libelf1")


def get(name: str) -> Kernel:
    """Return a kernel, ready to boot: one of IMAGES, DEBUG or OLDEST.

    Raises debian11.UnavailableError if OLDEST cannot be had.
    """
    return {DEBUG: _debug, OLDEST: _debian11}.get(name, lambda: _debian12(name))()


def _debian11() -> Kernel:
    cache = CACHE / OLDEST
    package = debian11.image(cache)
    release = package.name.split("_")[0].removeprefix("linux-image-")
    version = release.removesuffix("-amd64")
    tree = cache / version
    if not (tree / "ready").exists():
        shutil.rmtree(tree, ignore_errors=True)
        run("dpkg", "-x", package, tree)
        (tree / "ready").touch()
    return Kernel(version, tree, tree / "boot" / f"vmlinuz-{release}", None, release)


def _debian12(name: str) -> Kernel:
    tree, version = _unpacked(name)
    release = f"{version}-amd64"
    headers = tree / "usr/src" / f"linux-headers-{release}"
    return Kernel(version, tree, tree / "boot" / f"vmlinuz-{release}", headers, release)


def _known_versions(kernel: str) -> set[str]:
    """The versions that apt knows, and those in the cache."""
    names = run("apt-cache", "pkgnames", f"linux-image-{kernel}").split()
    names += [p.name.split("_")[0] for p in (CACHE / kernel).glob("linux-image-*.deb")]
    return {m[1] for name in names if (m := re.match(IMAGES[kernel], name))}


def _newest_version(kernel: str) -> str:
    found = _known_versions(kernel)
    if not found and not os.geteuid():
        run("apt-get", "update")
        found = _known_versions(kernel)
    if not found:
        sys.exit(
            f"apt knows no Debian 12 image of Linux {kernel} (6.12 is in its security archive); "
            "as root: apt-get update"
        )
    return max(found, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def _unpacked(kernel: str) -> tuple[Path, str]:
    """The tree with image, modules, headers and kbuild of a kernel, and its version."""
    version = _newest_version(kernel)
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
        run("dpkg", "-x", _downloaded(package, cache), tree)
    # Debian's makefiles name /usr/src; ours lies here.
    for name in ("Makefile", ".kernelvariables"):
        file = tree / "usr/src" / f"{headers}-amd64" / name
        file.write_text(file.read_text().replace("/usr/src/", f"{tree}/usr/src/"))
    # With vmlinux there, the build makes BTF, for which it wants pahole.
    (tree / "usr/src" / f"{headers}-amd64" / "vmlinux").unlink(missing_ok=True)
    (tree / "ready").touch()
    return tree, version


def _downloaded(package: str, cache: Path) -> Path:
    if not list(cache.glob(f"{package}_*.deb")):
        run("apt-get", "download", package, cwd=cache)
    return max(cache.glob(f"{package}_*.deb"))


def _debug() -> Kernel:
    config = KMOD / "tests/debug.config"
    cache = CACHE / DEBUG
    cache.mkdir(parents=True, exist_ok=True)
    package = _downloaded(SOURCE, cache)
    known = hashlib.sha256(config.read_bytes() + package.name.encode()).hexdigest()[:12]
    tree = cache / known
    source = tree / SOURCE
    kernel = Kernel(DEBUG, tree, source / "arch/x86/boot/bzImage", source, "")
    if (tree / "ready").exists():
        return kernel
    need_tools(BUILD_TOOLS)
    shutil.rmtree(tree, ignore_errors=True)
    run("dpkg", "-x", package, tree)
    run("tar", "xf", tree / f"usr/src/{SOURCE}.tar.xz", cwd=tree)
    shutil.copy(config, source / "kernel/configs/kernelzero.config")
    run("make", "CC=gcc-12", "allnoconfig", "kernelzero.config", cwd=source)
    chosen = (source / ".config").read_text().splitlines()
    wanted = [line for line in config.read_text().splitlines() if line.endswith("=y")]
    if refused := [line for line in wanted if line not in chosen]:
        sys.exit(f"the kernel cannot be configured with {refused}")
    print(f"building {SOURCE} in {tree}, once; this takes a while", flush=True)
    run("make", "CC=gcc-12", f"-j{os.cpu_count()}", "bzImage", "modules", cwd=source)
    (tree / "ready").touch()
    return kernel
