"""Functions that run confined, with Arrow inputs and outputs by reference.

    zerrow_store.sandbox.run(function, table, memory="2GiB")

A sandbox has its own namespaces, an empty read-only file system, limits of memory, processes and
time, and no network. Its inputs are sealed files; the kernel seals its outputs before the host
reads them. See docs/sandbox.md.
"""

from zerrow_store.protocol.reports import SandboxStats
from zerrow_store.sandbox.call import run
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.pool import close
from zerrow_store.sandbox.stats import stats

__all__ = ["SandboxOptions", "SandboxStats", "close", "run", "stats"]
