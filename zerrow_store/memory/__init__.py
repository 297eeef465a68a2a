"""The switch of the captures.

The captures have Arrow and NumPy allocate in this process's arena.
"""

from zerrow_store.memory.capture import start, stop

__all__ = ["start", "stop"]
