"""Runs a DAG on a side."""

import warnings
from typing import Any

import ray

from benchmarks.report.session import is_plain


def execute(side: str, node: Any) -> Any:
    """Run the DAG as the side does, and return what it gives."""
    if is_plain(side):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray means to remove `execute`
            return ray.get(node.execute())
    from zerrow_ray import dag

    return ray.get(dag.execute(node, progress=False))
