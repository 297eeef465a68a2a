"""The memory that the DAGs of a driver share: each may have what the others do not need.

One that holds more than its share (the budget by the number of DAGs) does not start further steps
while another one waits. Drivers that run DAGs at the same time have equal parts of what the stores
may hold, whatever the others need.
"""

import threading
import time
from collections.abc import Callable

_REFRESH_SECONDS = 1.0


class Budget:
    """What the DAGs of this driver may hold together.

    measure: returns that in bytes, given how many drivers share it and what results of these DAGs
    hold already; asked when the first DAG begins, and when other drivers come and go. drivers:
    counts them. announce: is told when the first DAG begins and when the last one has ended.
    """

    def __init__(
        self,
        measure: Callable[[int, int], int],
        *,
        drivers: Callable[[], int] = lambda: 1,
        announce: Callable[[bool], None] = lambda running: None,
    ) -> None:
        self._measure = measure
        self._count_drivers = drivers
        self._announce = announce
        self._total = 0
        self._drivers = 0
        self._counted = 0.0
        self._lock = threading.Lock()
        self._accounts: list[Account] = []

    def open(self) -> "Account":
        """Return an account for one DAG; `close` it."""
        account = Account(self)
        with self._lock:
            if not self._accounts:
                self._announce(True)
                self._drivers, self._counted = 0, 0.0
            self._accounts.append(account)
            self._refresh()
        return account

    def held(self) -> int:
        """Return the bytes that all DAGs hold together."""
        with self._lock:
            return self._held()

    def _close(self, account: "Account") -> None:
        self._accounts.remove(account)
        if not self._accounts:
            self._announce(False)

    def _refresh(self) -> None:
        if time.monotonic() - self._counted < _REFRESH_SECONDS:
            return
        self._counted = time.monotonic()
        drivers = max(1, self._count_drivers())
        if drivers != self._drivers:
            self._drivers = drivers
            results = self._held() - sum(account.running_bytes() for account in self._accounts)
            self._total = self._measure(drivers, results)

    def _held(self) -> int:
        return sum(account.held for account in self._accounts)

    def _admits(self, account: "Account", nbytes: int, anyway: bool) -> bool:
        self._refresh()
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

    def running_bytes(self) -> int:
        """Return what is taken for running steps; the budget's lock is held."""
        return sum(self._bytes.get(key, 0) for key in self.running)

    def excess(self, nbytes: int) -> int:
        """Return by how much `nbytes` more would be too many; not positive if they fit."""
        with self._budget._lock:
            self._budget._refresh()
            return self._budget._held() + nbytes - self._budget._total

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
            self._budget._close(self)

    def _put(self, key: str, nbytes: int) -> None:
        self.held += nbytes - self._bytes.pop(key, 0)
        if nbytes:
            self._bytes[key] = nbytes
