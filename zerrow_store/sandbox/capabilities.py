"""Probes of what this machine offers for confinement.

Each function tries one part and describes it, or raises an error that says what is missing and what
follows from that.
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
    """Create all namespaces once. Every sandbox needs them.

    Raises
    ------
    SandboxUnavailableError
        This machine does not allow them, or has no bubblewrap.
    """
    bwrap = find_bubblewrap()
    tried = subprocess.run([bwrap, *_TRY], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise SandboxUnavailableError(
            f"bubblewrap fails: {tried.stderr.strip()} (are unprivileged user namespaces allowed, "
            "and /proc not masked by a container?)"
        )
    version = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=True)
    return f"user, mount, PID, IPC, UTS and network, by {version.stdout.strip()}"


def system_call_filter() -> str:
    """Build the filter once.

    Raises
    ------
    SandboxUnavailableError
        libseccomp is missing.
    """
    try:
        os.close(make_filter(network=False))
    except OSError as error:
        raise SandboxUnavailableError(
            f"libseccomp is missing ({error}; Debian's package: libseccomp2). Sandboxes need "
            "best_effort=True, and filter no system calls"
        ) from error
    library = ctypes.CDLL("libseccomp.so.2")
    return f"by libseccomp, level {library.seccomp_api_get()}"


def limits() -> str:
    """Create a control group once.

    Raises
    ------
    SandboxUnavailableError
        This process can create none.
    """
    try:
        found = hierarchies()
    except SandboxUnavailableError as error:
        raise SandboxUnavailableError(
            f"{error}. Sandboxes need best_effort=True; then setrlimit limits each process alone, "
            "and only the arena's size limits files in memory"
        ) from error
    return f"by cgroup v{found.version} at {found.memory}"
