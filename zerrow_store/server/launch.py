"""Starting a store as a daemon, by whoever first needs it."""

import os
import select
import subprocess
import sys
from pathlib import Path

from zerrow_store import logs
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.server.companion import Lasting

_PATIENCE_SECONDS = 30.0


def launch(
    name: str,
    *,
    budget: int,
    eviction: str,
    log: Path | None = None,
    watch_pid: int | None = None,
    lasting: Lasting = Lasting(),  # noqa: B008  # it never changes
) -> None:
    """Start a store; return when it serves. Where others do the same, there is one store all the
    same. The arguments are those of `Supervisor`.

    Its processes are nobody's children, in a session of their own, and hold no directory. Raises
    StoreUnavailableError if it does not start.
    """
    log = (log or logs.default_log(name)).absolute()
    command = store_command(
        "zerrow_store.server.supervisor",
        name,
        budget=budget,
        eviction=eviction,
        log=log,
        watch_pid=watch_pid,
        lasting=lasting,
    )
    if not _serves(command):
        raise StoreUnavailableError(
            f"the store {name!r} did not start; {log} and {logs.supervisor_log(log)} say why"
        )


def _serves(command: list[str]) -> bool:
    """Run a supervisor, which detaches itself; return whether its store serves, once it does."""
    reading, writing = os.pipe()
    try:
        try:
            subprocess.run(
                [*command, "--spare", "--detach-fd", str(writing)],
                pass_fds=[writing],
                start_new_session=True,
                cwd="/",
                env=os.environ | {"PYTHONPATH": _python_path()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        finally:
            os.close(writing)
        # It says so, or has ended: nobody else has the other end of the pipe.
        return bool(select.select([reading], [], [], _PATIENCE_SECONDS)[0] and os.read(reading, 1))
    finally:
        os.close(reading)


def store_command(
    module: str,
    name: str,
    *,
    budget: int,
    eviction: str,
    log: Path,
    watch_pid: int | None,
    lasting: Lasting,
) -> list[str]:
    """Return the command of a process of a store, with what all of them are told."""
    command = [sys.executable, "-m", module, "--name", name, "--budget", str(budget)]
    command += ["--eviction", eviction, "--log", str(log), *lasting.arguments()]
    return command if watch_pid is None else [*command, "--watch-pid", str(watch_pid)]


def _python_path() -> str:
    """Return where a policy is looked for, too: here, but after everything else."""
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])
