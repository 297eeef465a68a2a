"""Ray's own DAGs (`task.bind(...)`), run within the store's memory.

    out = zerrow_ray.dag.execute(final_node)

Steps start when what they are expected to need fits, and what nobody will ask for any more is let
go at once.
"""

from zerrow_ray.dag.executor import StepError, execute
from zerrow_ray.dag.explain import Explanation

__all__ = ["Explanation", "StepError", "execute"]
