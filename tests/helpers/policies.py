"""An eviction policy as users write them."""

from typing import Any

from zerrow_store.policy import Candidate


class Newest:
    """What became idle last goes first."""

    def way(self, candidate: Candidate) -> str | None:
        return next(iter(candidate.ways), None)

    def rank(self, candidate: Candidate, floor: float) -> Any:
        return 0.0, -candidate.idle_since


NAME = f"{__name__}:{Newest.__name__}"
