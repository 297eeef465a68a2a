"""Run the Python examples of a page, one after the other, in one process of their own.

    python -m tests.docs.run_page PAGE PRELUDE

The prelude, a file, is run first: it defines what the examples take for granted. An example that
needs Ray gets one that is on this machine alone, whatever it asks for.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pages import examples


def main(page: Path, prelude: Path) -> None:
    """Run the prelude, then the page's examples."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(prelude.read_text(), str(prelude), "exec"), names)
    for line, code in examples(page):
        if "zerrow_ray" in code:
            _have_ray(code)
        # Its lines have the numbers that they have on the page.
        exec(compile("\n" * line + code, str(page), "exec"), names)
        print(f"ran {page.name}:{line}", flush=True)
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def _have_ray(code: str) -> None:
    """Have a Ray for an example, unless it starts one; then there is to be none yet."""
    import ray

    import zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS, start_patiently

    if not isinstance(ray.init, functools.partial):
        start_patiently(pytest.MonkeyPatch())  # to the end of this process
        ray.init = functools.partial(ray.init, **RAY_OPTIONS)
    if "zerrow_ray.init(" in code:
        ray.shutdown()
    elif not ray.is_initialized():
        zerrow_ray.init()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
