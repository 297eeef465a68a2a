"""The private names of Ray that running DAGs needs.

`ray_compat` has all others, and says how they are checked. Most workers load neither this module
nor Ray's DAGs.
"""

from ray.dag.py_obj_scanner import _PyObjScanner as NodeScanner

from zerrow_ray import ray_compat

__all__ = ["NodeScanner"]

_SCANNER = "ray.dag.py_obj_scanner:_PyObjScanner"
_EXPECTED: dict[str, list[str] | None] = {
    f"{_SCANNER}.find_nodes": ["self", "obj"],
    f"{_SCANNER}.replace_nodes": ["self", "table"],
    f"{_SCANNER}.clear": ["self"],
}

if _lacking := ray_compat.missing(_EXPECTED):
    raise ImportError(f"it lacks {', '.join(_lacking)}")
