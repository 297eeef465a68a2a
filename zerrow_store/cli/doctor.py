"""`zerrow doctor`: a check of this machine."""

import fcntl
import os
import platform
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from zerrow_store.budget import default_budget, default_eviction
from zerrow_store.cli.options import formatted
from zerrow_store.cli.output import print_rows
from zerrow_store.cli.rows import columns
from zerrow_store.client.observe import observe
from zerrow_store.config import LEAST_ARENA, MemoryConfig, memory_limit
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.logs import default_log
from zerrow_store.memfd import create_memfd
from zerrow_store.protocol.sockets import running_stores
from zerrow_store.sizes import format_size, size_setting


@dataclass(frozen=True)
class Check:
    """A finding. `needed`: the store does not work without it."""

    name: str
    ok: bool
    finding: str
    needed: bool


@click.command(name="doctor")
@formatted
def doctor(form: str) -> int:
    """Check this machine and this installation; fail if something required is missing."""
    checks = examine()
    rows = [{"check": each.name, "ok": each.ok, "finding": each.finding} for each in checks]
    print_rows(rows, columns("check ok finding"), form, detail=False)
    return 0 if all(each.ok for each in checks if each.needed) else 1


def examine() -> list[Check]:
    """Run all checks."""
    checks: list[tuple[str, bool, Callable[[], str]]] = [
        ("settings", True, _settings),
        ("pyarrow", True, _pyarrow),
        ("memfd", True, _memfd),
        ("pidfd", True, _pidfd),
        ("capture of Arrow", False, lambda: _captured("Arrow")),
        ("capture of NumPy", False, lambda: _captured("NumPy")),
        ("memory budget", True, _budget),
        ("descriptors", True, _descriptors),
        ("mappings", False, _mappings),
        ("huge pages", False, huge_pages_of_arenas),
        ("logs", False, _logs),
        ("kernelzero", False, _kernelzero),
        ("sandbox: namespaces", False, _sandbox_namespaces),
        ("sandbox: system call filter", False, _sandbox_filter),
        ("sandbox: memory and process limits", False, _sandbox_limits),
        ("drawing of DAGs", False, _drawing),
    ]
    return [_run(name, needed, check) for name, needed, check in checks]


def _run(name: str, needed: bool, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check(), needed)
    except Exception as error:
        return Check(name, False, str(error), needed)


def _settings() -> str:
    from zerrow_store.memory import huge_pages, kernelzero

    config = MemoryConfig.from_environment()
    kernelzero.wanted(config.kernelzero)
    if config.huge_pages == "on":
        huge_pages.require()
    default_eviction()
    for name in "ZERROW_MEMORY", "ZERROW_THRESHOLD":
        size_setting(name)
    given = sorted(name for name in os.environ if name.startswith("ZERROW_"))
    return f"in the environment: {', '.join(given)}" if given else "none in the environment"


def _pyarrow() -> str:
    import pyarrow

    import zerrow_store.native  # noqa: F401  (raises ImportError for a version without one)

    return f"{pyarrow.__version__}, with a native module"


def _memfd() -> str:
    size = 1 << 36
    allowed, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if allowed != resource.RLIM_INFINITY:
        size = min(size, allowed)
    if size < LEAST_ARENA:
        raise RuntimeError(
            f"a file may have {allowed} bytes at most (ulimit -f), an arena needs {LEAST_ARENA}"
        )
    fd = create_memfd("zerrow-doctor")
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    finally:
        os.close(fd)
    return f"sparse files with seals, Linux {platform.release()}"


def _pidfd() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return "they report the end of processes"


def _captured(library: str) -> str:
    from zerrow_store.memory.capture import attempt

    captured, failures = attempt()
    if not captured[library.lower()]:
        if failure := failures.get(library):
            raise RuntimeError(failure)
        off = f"ZERROW_CAPTURE_{library.upper()} is off"
        raise RuntimeError(f"{off}: what it allocates is copied once when it is published")
    return "verified"


def _budget() -> str:
    return (
        f"{format_size(default_budget())} of {format_size(memory_limit())} (ZERROW_MEMORY sets it)"
    )


def _descriptors() -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1024:
        raise RuntimeError(f"only {hard} open files are allowed; one is needed for each process")
    return f"{hard:,} open files allowed"


def _mappings() -> str:
    return f"{int(Path('/proc/sys/vm/max_map_count').read_text()):,} for each process"


def huge_pages_of_arenas() -> str:
    """Say in which huge pages arenas are here; raise RuntimeError with the reason if in none."""
    from zerrow_store.memory import huge_pages

    found = huge_pages.probe()
    if not found.available:
        raise RuntimeError(f"{found.finding}; first uses and first reads fault in 4 KiB pages")
    if MemoryConfig.from_environment().huge_pages == "off":
        raise RuntimeError(f"off (ZERROW_HUGE_PAGES=auto uses them): {found.finding}")
    return found.finding


def _logs() -> str:
    found = {name: _log_of(name) for name in running_stores()}
    found.setdefault("default", f"{default_log('default')} (not running)")
    return "; ".join(f"store {name}: {log}" for name, log in found.items())


def _log_of(name: str) -> str:
    try:
        return observe(name).log
    except StoreUnavailableError:  # of another version, or just ending
        return f"{default_log(name)} perhaps (it does not answer)"


def _kernelzero() -> str:
    from zerrow_store.memory import kernelzero

    found = kernelzero.probe()
    if not found.available:
        raise RuntimeError(f"{found.finding}; memory born outside the arena is copied once")
    return found.finding


def _sandbox_namespaces() -> str:
    from zerrow_store.sandbox.capabilities import namespaces

    return namespaces()


def _sandbox_filter() -> str:
    from zerrow_store.sandbox.capabilities import system_call_filter

    return system_call_filter()


def _sandbox_limits() -> str:
    from zerrow_store.sandbox.capabilities import limits

    return limits()


def _drawing() -> str:
    found = shutil.which("dot")
    if found is None:
        raise RuntimeError("off: Graphviz is not installed (Debian's package: graphviz)")
    return found
