"""The evaluation of a DAG's nodes, once the values of the nodes below are known.

Ray's own executor puts the values into a copy of the node. A copy that holds ObjectRefs keeps them
for good: Ray searches it for nodes by pickling it, and never releases a reference that was pickled
outside of a task. So here values only go into argument lists.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.dag import (
    ClassMethodNode,
    ClassNode,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)

from zerrow_ray.dag.ray_dag_compat import PARENT_CLASS_NODE_KEY, DAGInputData, NodeScanner, body

Value = Callable[[DAGNode], Any]
"""Returns the value of a node."""


def arguments(node: DAGNode, value: Value) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return a node's arguments (positional, by name, Ray's own), with values in place of the
    nodes, however deeply they are nested.
    """
    scanner = NodeScanner()
    try:
        bound = [node.get_args(), node.get_kwargs(), node.get_other_args_to_resolve()]
        found = scanner.find_nodes(bound)
        args, kwargs, others = scanner.replace_nodes({each: value(each) for each in found})
    finally:
        scanner.clear()
    return list(args), kwargs, others


def run(node: Any, value: Value) -> Any:
    """Start a step; return an ObjectRef, a list of them, or an actor's handle."""
    args, kwargs, others = arguments(node, value)
    options = node.get_options()
    if isinstance(node, ClassMethodNode):
        actor = others[PARENT_CLASS_NODE_KEY]
        method = getattr(actor, node.get_method_name())
        return method.options(**options).remote(*args, **kwargs)
    assert isinstance(node, FunctionNode | ClassNode)
    return ray.remote(body(node)).options(**options).remote(*args, **kwargs)


def evaluate(node: Any, value: Value, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the value of a node that is not a step.

    Parameters
    ----------
    node
        The node.
    value
        Returns the value of a node below.
    args, kwargs
        The DAG's input.

    Raises
    ------
    TypeError
        Only compiled DAGs have nodes of this kind.
    """
    if isinstance(node, InputNode):
        return args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)
    if isinstance(node, InputAttributeNode):
        access = node.get_other_args_to_resolve()
        given = value(access["dag_input_node"])
        if access["accessor_method"] == "__getattr__" and not isinstance(given, DAGInputData):
            return getattr(given, access["key"])
        return given[access["key"]]
    if isinstance(node, MultiOutputNode):
        return arguments(node, value)[0]
    if isinstance(node, ClassMethodNode):  # one of the results of a call
        return value(node.class_method_call)[node.output_idx]
    raise TypeError(f"only compiled DAGs have nodes of type {type(node).__name__}")
