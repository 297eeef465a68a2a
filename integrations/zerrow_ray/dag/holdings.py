"""What the results of a DAG's steps hold in memory, each byte counted for one step.

A result may refer to bytes of those it was made of, which stay when these are let go: a table with
one column added refers to all the others. Such bytes then count for it, as far as it refers to more
than counts for it already.
"""

from collections.abc import Iterable


class Holdings:
    """Bytes by step. total: of all."""

    def __init__(self) -> None:
        self.total = 0
        self._held: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def put(self, key: str, held: int, size: int) -> None:
        """Enter what counts for a step, and the size of its result with all that it refers to."""
        self.remove(key)
        self.total += held
        self._held[key], self._sizes[key] = held, size

    def remove(self, key: str) -> None:
        """Forget a step, if it is known."""
        self.total -= self._held.pop(key, 0)
        self._sizes.pop(key, None)

    def of(self, key: str) -> int:
        """Return what counts for a step."""
        return self._held.get(key, 0)

    def freed(self, key: str, sharers: Iterable[str]) -> int:
        """Return what there would be less of if a result was let go."""
        return max(0, self.of(key) - sum(map(self._more, sharers)))

    def let_go(self, key: str, sharers: Iterable[str]) -> None:
        """Remove a result. sharers: those that may refer to its bytes."""
        left = self.of(key)
        self.remove(key)
        for sharer in sharers:
            taken = min(left, self._more(sharer))
            if taken:
                self.put(sharer, self.of(sharer) + taken, self._sizes[sharer])
                left -= taken

    def _more(self, key: str) -> int:
        """What a result refers to and that counts for another one."""
        return max(0, self._sizes.get(key, 0) - self.of(key))
