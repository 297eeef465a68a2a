"""Whether data is large enough for a reference to pay: the break-even with Ray's own path.

It is lower on a node that is alone: another node asks for the data when it has the message, and
waits for both, which small data is copied sooner than.
"""

from collections.abc import Callable

from zerrow_ray.config import plugin_config
from zerrow_ray.neighbours import has_neighbours


def pays(reaches: Callable[[int], bool]) -> bool:
    """Whether data is to go by reference. reaches: whether it has so many bytes."""
    config = plugin_config()
    if not reaches(config.threshold):
        return False
    return reaches(config.threshold_between_nodes) or not has_neighbours()
