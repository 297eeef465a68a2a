"""The compiled module, loaded only beside the pyarrow that it was built with."""

from zerrow_store.native.version import check_pyarrow

check_pyarrow()

from zerrow_store.native import _native  # noqa: E402  (after the check)

__all__ = ["_native"]
