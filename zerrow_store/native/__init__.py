"""The compiled module, loaded only beside the pyarrow that it was built with.

Linking ties the extension to one libarrow. Beside another version it would load a second
libarrow into the process instead of failing, so the versions are compared first.
"""

import pyarrow

from zerrow_store.native._build_info import PYARROW_VERSION

if pyarrow.__version__ != PYARROW_VERSION:
    raise ImportError(
        f"zerrow_store was built for pyarrow {PYARROW_VERSION}, but pyarrow "
        f"{pyarrow.__version__} is installed: install pyarrow=={PYARROW_VERSION}, "
        f"or rebuild zerrow-store against {pyarrow.__version__}"
    )

from zerrow_store.native import _native

__all__ = ["_native"]
