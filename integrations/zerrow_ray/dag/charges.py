"""Memory charged to the results of a DAG's steps, each byte to one of them.

A result may refer to bytes of the results it was made of, which outlive these: a table with one
column added refers to all other columns. When a result is released, its bytes are charged to the
results that share them, up to the size of each. (The kernel charges shared pages to one memory
cgroup likewise.)
"""

from collections.abc import Iterable


class Charges:
    """Bytes by step.

    Attributes
    ----------
    total
        The bytes charged to all steps.
    """

    def __init__(self) -> None:
        self.total = 0
        self._charged: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def charge(self, key: str, nbytes: int, size: int) -> None:
        """Charge bytes to a step, in place of earlier ones.

        Parameters
        ----------
        key
            The step.
        nbytes
            The bytes to charge.
        size
            The size of its result, with all that it refers to.
        """
        self.uncharge(key)
        self.total += nbytes
        self._charged[key], self._sizes[key] = nbytes, size

    def uncharge(self, key: str) -> None:
        """Remove a step, if it is charged."""
        self.total -= self._charged.pop(key, 0)
        self._sizes.pop(key, None)

    def of(self, key: str) -> int:
        """Return the bytes charged to a step."""
        return self._charged.get(key, 0)

    def freed(self, key: str, sharers: Iterable[str]) -> int:
        """Return by how much `release` would reduce the total."""
        return max(0, self.of(key) - sum(map(self._shared, sharers)))

    def release(self, key: str, sharers: Iterable[str]) -> None:
        """Remove a result, and charge its bytes to the results that may refer to them."""
        left = self.of(key)
        self.uncharge(key)
        for sharer in sharers:
            taken = min(left, self._shared(sharer))
            if taken:
                self.charge(sharer, self.of(sharer) + taken, self._sizes[sharer])
                left -= taken

    def _shared(self, key: str) -> int:
        """Return the bytes that a result refers to and that are charged to another one."""
        return max(0, self._sizes.get(key, 0) - self.of(key))
