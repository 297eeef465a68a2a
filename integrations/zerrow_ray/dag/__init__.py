"""Ray's own DAGs (`task.bind(...)`), run within the store's memory.

    out = zerrow_ray.dag.execute(final_node)

A step starts when the memory it is expected to need is free. A result is released as soon as no
step will read it any more.
"""

from zerrow_ray.dag.executor import StepError, execute
from zerrow_ray.dag.explain import Explanation

__all__ = ["Explanation", "StepError", "execute"]
