"""Which parts of confinement this machine can give: tried, not guessed.

Each function returns what there is, or raises an error that says what is missing and what follows.
"""

import ctypes
import os
import subprocess

from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.sandbox.cgroups import hierarchies
from zerrow_store.sandbox.launcher import find_bubblewrap
from zerrow_store.sandbox.seccomp import make_filter

_TRY = ("--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true")


def namespaces() -> str:
    """Make all namespaces once. They are never done without."""
    bwrap = find_bubblewrap()
    tried = subprocess.run([bwrap, *_TRY], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise SandboxUnavailableError(
            f"no sandbox can be made here: {tried.stderr.strip()} (are unprivileged user "
            "namespaces allowed, and /proc not masked by a container?)"
        )
    version = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=True)
    return f"user, mount, PID, IPC, UTS and network, by {version.stdout.strip()}"


def system_call_filter() -> str:
    """Make the filter once."""
    try:
        os.close(make_filter(network=False))
    except OSError as error:
        raise SandboxUnavailableError(
            f"no libseccomp ({error}; Debian's package: libseccomp2): only with "
            "best_effort=True, and then unfiltered"
        ) from error
    library = ctypes.CDLL("libseccomp.so.2")
    return f"by libseccomp, level {library.seccomp_api_get()}"


def limits() -> str:
    """Make a control group once."""
    try:
        found = hierarchies()
    except SandboxUnavailableError as error:
        raise SandboxUnavailableError(
            f"{error}. Only with best_effort=True, and then by setrlimit: for each process alone, "
            "and files in memory only by the arena's size"
        ) from error
    return f"by cgroup v{found.version} at {found.memory}"
