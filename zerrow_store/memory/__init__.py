"""How bytes come to live in files: the process's arena and the captures that fill it."""

from zerrow_store.memory.capture import start, stop

__all__ = ["start", "stop"]
