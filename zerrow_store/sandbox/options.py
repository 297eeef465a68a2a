"""What a sandbox is to be like."""

from dataclasses import dataclass
from pathlib import Path

from zerrow_store.sizes import format_size, parse_size

_LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """Limits of one call, and what its sandbox sees. Sizes are in bytes.

    memory: all that the call takes, its output, files in /tmp and threads included.
    network: the host's network, with everything that listens there; sockets by name stay closed.
    timeout: seconds; None waits for ever. processes: how many processes and threads it may have.
    tmp: size of each of /tmp, /dev/shm and the home directory. python_path: directories that it
    may read and import from; readable: files and directories that it may read.
    fresh: a sandbox of its own for each call. best_effort: go without limits that this machine
    cannot give, with a warning; what isolates (namespaces) is never left out.
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
            raise ValueError(f"memory: a sandbox needs {format_size(_LEAST_MEMORY)} at least")
        if self.tmp < 1 << 16:
            raise ValueError("tmp: at least 64 KiB")
        if self.processes < 1:
            raise ValueError("processes: at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError("timeout: more than 0 seconds, or None")

    def world(self) -> tuple[object, ...]:
        """What a sandbox is started with; the rest is set for each call."""
        return (
            self.memory,
            self.network,
            self.tmp,
            self.python_path,
            self.readable,
            self.best_effort,
        )
