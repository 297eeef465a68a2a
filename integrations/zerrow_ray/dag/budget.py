"""The memory that the DAGs of a driver share: each may have what the others do not need.

One that holds more than its share (the budget by the number of DAGs) does not start further steps
while another one waits.
"""

import threading
from collections.abc import Callable


class Budget:
    """`measure` returns the bytes that all DAGs together may hold; asked when the first begins."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._total = 0
        self._lock = threading.Lock()
        self._accounts: list[Account] = []

    def open(self) -> "Account":
        """Return an account for one DAG; `close` it."""
        account = Account(self)
        with self._lock:
            if not self._accounts:
                self._total = self._measure()
            self._accounts.append(account)
        return account

    def held(self) -> int:
        """Return the bytes that all DAGs hold together."""
        with self._lock:
            return self._held()

    def _held(self) -> int:
        return sum(account.held for account in self._accounts)

    def _admits(self, account: "Account", nbytes: int, anyway: bool) -> bool:
        anyway = anyway and not any(each.running for each in self._accounts)
        if self._held() + nbytes > self._total:
            return anyway
        fair = account.held + nbytes <= self._total // len(self._accounts)
        others = (other for other in self._accounts if other is not account)
        return fair or anyway or not any(other.waits for other in others)


class Account:
    """What one DAG holds, in bytes, by step."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes: dict[str, int] = {}
        self.held = 0
        self.running: set[str] = set()
        self.waits = False

    def take(self, key: str, nbytes: int, *, anyway: bool = False) -> bool:
        """Take memory for a step, if it may run. anyway: also beyond the share or the budget, if
        no step of any DAG runs: waiting would not help.
        """
        with self._budget._lock:
            admitted = self._budget._admits(self, nbytes, anyway)
            self.waits = not admitted
            if admitted:
                self._put(key, nbytes)
                self.running.add(key)
            return admitted

    def keep(self, key: str, nbytes: int) -> None:
        """Note that a step has finished, and what its result holds."""
        with self._budget._lock:
            self._put(key, nbytes)
            self.running.discard(key)

    def drop(self, key: str) -> None:
        """Give back what a step's result holds."""
        with self._budget._lock:
            self._put(key, 0)

    def close(self) -> None:
        """Give back everything."""
        with self._budget._lock:
            self._budget._accounts.remove(self)

    def _put(self, key: str, nbytes: int) -> None:
        self.held += nbytes - self._bytes.pop(key, 0)
        if nbytes:
            self._bytes[key] = nbytes
