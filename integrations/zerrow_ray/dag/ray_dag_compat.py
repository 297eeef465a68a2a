"""The private names of Ray that running DAGs needs.

`ray_compat` has all others, and says how they are checked. Most workers load neither this module
nor Ray's DAGs.
"""

from typing import Any

from ray.dag import ClassNode, DAGNode, FunctionNode
from ray.dag.constants import PARENT_CLASS_NODE_KEY
from ray.dag.input_node import DAGInputData
from ray.dag.py_obj_scanner import _PyObjScanner as NodeScanner

from zerrow_ray import ray_compat

__all__ = ["PARENT_CLASS_NODE_KEY", "DAGInputData", "NodeScanner", "body", "children"]

_SCANNER = "ray.dag.py_obj_scanner:_PyObjScanner"
_EXPECTED: dict[str, list[str] | None] = {
    f"{_SCANNER}.find_nodes": ["self", "obj"],
    f"{_SCANNER}.replace_nodes": ["self", "table"],
    f"{_SCANNER}.clear": ["self"],
    "ray.dag:DAGNode._get_all_child_nodes": ["self"],
}


def body(node: Any) -> Any:
    """Return the function or class of a node that has one."""
    return node._body


def children(node: DAGNode) -> list[DAGNode]:
    """Return the nodes that a node needs the values of."""
    found: list[DAGNode] = node._get_all_child_nodes()
    return found


if _lacking := ray_compat.missing(_EXPECTED):
    raise ImportError(f"it lacks {', '.join(_lacking)}")
# An attribute of the instances: the class does not tell.
for _node in FunctionNode(body, [], {}, {}), ClassNode(object, [], {}, {}):
    if not hasattr(_node, "_body"):
        raise ImportError(f"its {type(_node).__name__} lacks _body")
