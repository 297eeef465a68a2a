"""Which of the compiled modules this process loads: the one for its libarrow.

Each is tied to the libarrow that it was linked with, by its soname. Beside another one it would
load a second libarrow into the process instead of failing, so pyarrow is asked first.
"""

import sys
from pathlib import Path

import zerrow_store.native._build_info as build_info


def choose_module() -> None:
    """Let `zerrow_store.native._native` be the module for the libarrow that pyarrow has loaded.

    Raises
    ------
    ImportError
        There is none for it.
    """
    import pyarrow  # its import may come back here: this module has to be complete by then

    loaded = pyarrow.cpp_build_info.so_version
    known = build_info.SO_VERSIONS
    if loaded not in known:
        versions = ", ".join(f"{int(number) // 100}.{int(number) % 100}" for number in known)
        raise ImportError(
            f"zerrow_store was built for pyarrow {versions}, but pyarrow {pyarrow.__version__} is "
            "installed: install one of these, or rebuild zerrow-store beside this one"
        )
    folder = str(Path(build_info.__file__).with_name(f"libarrow_{loaded}"))
    search_path = sys.modules[__package__].__path__
    if folder not in search_path:
        search_path.append(folder)
