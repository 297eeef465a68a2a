"""The compiled module for the libarrow of this process."""

from zerrow_store.native.version import choose_module

choose_module()

from zerrow_store.native import _native  # noqa: E402  (importable once it is chosen)

__all__ = ["_native"]
