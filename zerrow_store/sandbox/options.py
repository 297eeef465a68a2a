"""The options of a sandbox."""

from dataclasses import dataclass
from pathlib import Path

from zerrow_store.sizes import format_size, parse_size

_LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """The limits of one call, and what its sandbox sees.

    Attributes
    ----------
    memory
        Bytes that the call may take, including its output, files in /tmp and threads.
    network
        Whether the call has the host's network, with all that listens there. Unix sockets stay
        closed.
    timeout
        Seconds; None for no limit.
    processes
        The number of processes and threads.
    tmp
        Size in bytes of each of /tmp, /dev/shm and the home directory.
    python_path
        Directories that the call may read and import from.
    readable
        Files and directories that the call may read.
    fresh
        Whether each call has a new sandbox.
    best_effort
        Whether to go on, with a warning, without limits that this machine lacks. Isolation
        (namespaces) is never left out.
    """

    memory: int = 1 << 30
    network: bool = False
    timeout: float | None = None
    processes: int = 64
    tmp: int = 64 << 20
    python_path: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    fresh: bool = False
    best_effort: bool = False

    def __post_init__(self) -> None:
        for name in ("memory", "tmp"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, parse_size(value))
        for name in ("python_path", "readable"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise TypeError(f"{name} is a sequence of paths, not a string")
            object.__setattr__(self, name, tuple(str(Path(path).resolve()) for path in given))
        if self.memory < _LEAST_MEMORY:
            raise ValueError(f"memory: a sandbox needs at least {format_size(_LEAST_MEMORY)}")
        if self.tmp < 1 << 16:
            raise ValueError("tmp: at least 64 KiB")
        if self.processes < 1:
            raise ValueError("processes: at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError("timeout: more than 0 seconds, or None")

    def world(self) -> tuple[object, ...]:
        """Return the options that a sandbox starts with. The others are set for each call."""
        return (
            self.memory,
            self.network,
            self.tmp,
            self.python_path,
            self.readable,
            self.best_effort,
        )
