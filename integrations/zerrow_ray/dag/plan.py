"""The graph of a DAG's steps.

A step is a bound task, an actor, or a call of an actor. The DAG's other nodes (input, attributes of
the input, outputs of a call with several, the multiple output) cost nothing, and are evaluated when
their value is needed.
"""

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ray.dag import ClassMethodNode, ClassNode, DAGNode, FunctionNode, InputNode

from zerrow_ray.dag.ray_dag_compat import PARENT_CLASS_NODE_KEY, body
from zerrow_ray.dag.ray_dag_compat import children as children_of

Children = dict[str, list[DAGNode]]
"""By a node's key, the nodes that it needs."""


@dataclass
class Step:
    """A node that runs.

    Attributes
    ----------
    key, node, name
        The node, its key, and a name that is unique in the plan.
    inputs
        The keys of the steps whose results it takes, each once.
    order
        Its place in the plan: depth first, the most demanding branch first. So steps that run one
        after the other hold few results.
    consumers
        The keys of the steps that take its result.
    """

    key: str
    node: Any
    name: str
    inputs: tuple[str, ...]
    order: int
    consumers: list[str] = field(default_factory=list)

    @property
    def body(self) -> Any:
        """Return the function or class; None for a call of an actor."""
        return None if isinstance(self.node, ClassMethodNode) else body(self.node)

    @property
    def is_task(self) -> bool:
        """Return whether it is a function, not an actor or a call of one."""
        return isinstance(self.node, FunctionNode)

    @functools.cached_property
    def arguments(self) -> str:
        """Return a digest of the step's arguments; "" if they are not plain values."""
        given = (self.node.get_args(), self.node.get_kwargs())
        return hashlib.blake2b(repr(given).encode()).hexdigest() if _is_plain(given) else ""


class Plan:
    """The steps of a DAG.

    Parameters
    ----------
    final
        The DAG's final node.

    Attributes
    ----------
    steps
        By key, in the order of the plan.
    results
        The keys of the steps whose values the final node consists of.

    Raises
    ------
    TypeError
        `final` is no node of a DAG.
    ValueError
        The DAG has several InputNodes.
    """

    def __init__(self, final: DAGNode) -> None:
        if not isinstance(final, DAGNode):
            raise TypeError(f"not a node of a Ray DAG (task.bind(...)): {type(final).__name__}")
        self.final = final
        self._children = _children(final)
        nodes = _most_demanding_first(final, self._children)
        if sum(isinstance(node, InputNode) for node in nodes) > 1:
            raise ValueError("a DAG has one InputNode")
        order = itertools.count()
        self.steps: dict[str, Step] = {}
        counts: Counter[str] = Counter()
        for node in filter(is_step, nodes):
            key, label = node.get_stable_uuid(), _name(node)
            counts[label] += 1
            name = label if counts[label] == 1 else f"{label}#{counts[label]}"
            self.steps[key] = Step(key, node, name, self._steps_below(node), next(order))
        for step in self.steps.values():
            for key in step.inputs:
                self.steps[key].consumers.append(step.key)
        own = final.get_stable_uuid()
        self.results = {own} if own in self.steps else set(self._steps_below(final))

    def is_needed(self, key: str, unfinished: set[str]) -> bool:
        """Return whether a result is one of the DAG's, or an unfinished step takes it."""
        return key in self.results or not unfinished.isdisjoint(self.steps[key].consumers)

    def made_of(self, key: str, unfinished: set[str]) -> Iterator[str]:
        """Iterate over the finished steps that took a result, or a result made of it."""
        seen: set[str] = set()
        stack = [key]
        while stack:
            for consumer in self.steps[stack.pop()].consumers:
                if consumer not in seen and consumer not in unfinished:
                    seen.add(consumer)
                    stack.append(consumer)
                    yield consumer

    def _steps_below(self, node: DAGNode) -> tuple[str, ...]:
        """Return the steps whose values a node takes, directly or through other nodes."""
        found: dict[str, None] = {}
        for child in self._children[node.get_stable_uuid()]:
            below = (child.get_stable_uuid(),) if is_step(child) else self._steps_below(child)
            found.update(dict.fromkeys(below))
        return tuple(found)


def is_step(node: DAGNode) -> bool:
    """Return whether a node is a step."""
    if isinstance(node, ClassMethodNode):
        return bool(node.is_class_method_call)
    return isinstance(node, FunctionNode | ClassNode)


def _children(final: DAGNode) -> Children:
    children: Children = {}
    stack = [final]
    while stack:
        node = stack.pop()
        if node.get_stable_uuid() not in children:
            children[node.get_stable_uuid()] = below = children_of(node)
            stack += below
    return children


def _most_demanding_first(final: DAGNode, children: Children) -> list[DAGNode]:
    """Return all nodes depth first, the children of each by descending Ershov number (1958).

    That is the number of results held at a time on the way to a node, if each is used once.
    """
    numbers: dict[str, int] = {}

    def number(node: DAGNode) -> int:
        return numbers[node.get_stable_uuid()]

    for node in _depth_first(final, children):
        below = sorted(map(number, children[node.get_stable_uuid()]), reverse=True)
        held = (before + of_child for before, of_child in enumerate(below))
        numbers[node.get_stable_uuid()] = max(held, default=1)
    by_demand = {key: sorted(below, key=number, reverse=True) for key, below in children.items()}
    return list(_depth_first(final, by_demand))


def _depth_first(final: DAGNode, children: Children) -> Iterator[DAGNode]:
    """Iterate over all nodes, each after those that it needs."""
    seen = {final.get_stable_uuid()}
    stack = [(final, iter(children[final.get_stable_uuid()]))]
    while stack:
        node, below = stack[-1]
        for child in below:
            key = child.get_stable_uuid()
            if key not in seen:
                seen.add(key)
                stack.append((child, iter(children[key])))
                break
        else:
            stack.pop()
            yield node


def _name(node: Any) -> str:
    if isinstance(node, ClassMethodNode):
        parent = node.get_other_args_to_resolve()[PARENT_CLASS_NODE_KEY]
        owner = f"{body(parent).__name__}." if isinstance(parent, ClassNode) else ""
        return f"{owner}{node.get_method_name()}"
    options = node.get_options()
    return str(options.get("name") or body(node).__name__)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bytes | int | float | PurePath)
