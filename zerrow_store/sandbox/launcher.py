"""The bubblewrap command line of a sandbox.

The root is an empty read-only directory with the system's libraries, Python, this package and the
paths that the user names, all read-only. Home, /tmp and /dev/shm are empty tmpfs of a limited size.
The environment is cleared. The sandbox's first process is ours, as process 1 of its PID namespace:
no signal from inside reaches it, and when it exits every process in the namespace ends.
"""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from zerrow_store.errors import SandboxUnavailableError
from zerrow_store.native import _native
from zerrow_store.once import warn_once
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.paths import HOME, WRITABLE
from zerrow_store.sandbox.seccomp import make_filter

logger = logging.getLogger("zerrow_store.sandbox")

_PACKAGE = Path(__file__).parents[1]
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
_ETC = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/mime.types")
_ETC_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs")
_UNSHARE = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts")


def launch(options: SandboxOptions, control: int) -> "subprocess.Popen[bytes]":
    """Start a sandbox whose first process has the connection `control`.

    Raises
    ------
    SandboxUnavailableError
        It cannot be started, or this machine lacks the system call filter.
    """
    bwrap = find_bubblewrap()
    fds = [control]
    try:
        command = [bwrap, *_isolation(options), *_files(options)]
        try:
            fds.append(make_filter(network=options.network))
            command += ["--seccomp", str(fds[-1])]
        except OSError as error:
            if not options.best_effort:
                raise SandboxUnavailableError(
                    f"no system call filter: {error}. Install libseccomp (libseccomp2)"
                ) from error
            warn_once(logger, f"a sandbox has no system call filter: {error}")
        command += ["--", sys.executable, "-B", "-s", "-m", "zerrow_store.sandbox.zygote"]
        return subprocess.Popen(
            [*command, str(control), str(options.memory)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailableError(f"bubblewrap cannot be started: {error}") from error
    finally:
        for fd in fds[1:]:
            os.close(fd)


def find_bubblewrap() -> str:
    """Return bubblewrap's path.

    Raises
    ------
    SandboxUnavailableError
        It is not installed.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxUnavailableError("bubblewrap is not installed (Debian's package: bubblewrap)")
    return found


def _isolation(options: SandboxOptions) -> list[str]:
    arguments = [*_UNSHARE, "--unshare-cgroup-try"]
    if not options.network:
        arguments.append("--unshare-net")
    arguments += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--cap-drop", "ALL"]
    arguments += ["--as-pid-1", "--new-session", "--clearenv"]
    package = _PACKAGE.parent
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(package), *options.python_path]),
        "ARROW_IO_THREADS": "2",
    }
    for name, value in variables.items():
        arguments += ["--setenv", name, value]
    return arguments


def _files(options: SandboxOptions) -> list[str]:
    arguments: list[str] = []
    for path in _SYSTEM:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    size = str(options.tmp)
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for path in WRITABLE:
        arguments += ["--size", size, "--tmpfs", path]
    for path in (*_ETC, *(_ETC_NETWORK if options.network else ())):
        arguments += ["--ro-bind-try", path, path]
    # The user's paths come after the tmpfs: they may lie below /tmp.
    for path in (*_python(), *options.python_path, *options.readable):
        arguments += ["--ro-bind", path, path]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]


def _python() -> list[str]:
    """Return the directories of this interpreter and this package."""
    paths = [sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix]
    paths += [str(Path(sys.executable).resolve().parent)]
    paths += [str(_PACKAGE), str(Path(_native.__file__).parents[1])]
    # A nested directory is visible with the one that it lies in.
    distinct = dict.fromkeys(os.path.abspath(path) for path in paths)
    inside = [p for p in distinct if any(p.startswith(f"{o}/") for o in (*distinct, *_SYSTEM))]
    return [path for path in distinct if path not in inside and path not in _SYSTEM]
