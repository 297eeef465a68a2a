"""The memory that the DAGs of a driver share: each may have what the others do not need.

A DAG *begins* when there is room for what it is expected to hold at most: many at once that each
get a little would only be in each other's way. Those that fit into a fair share (the budget by the
number of DAGs) begin at once, the others in order, and two of them in any case, so that none stops
all others. Of those that have begun, one that holds more than its share does not start further
steps while another one waits. Drivers that run DAGs at the same time have equal parts of what the
stores may hold, whatever the others need.
"""

import threading
import time
from collections.abc import Callable, Iterable

from zerrow_ray.dag.holdings import Holdings

_REFRESH_SECONDS = 1.0

_LEAST_AT_ONCE = 2
"""DAGs that begin whatever they need."""


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
        # Notified when there may be room.
        self._lock = threading.Condition()
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
        self._lock.notify_all()
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

    def _may_begin(self, account: "Account", peak: int) -> bool:
        begun = [each for each in self._accounts if each.begun]
        if len(begun) < _LEAST_AT_ONCE or peak <= self._total // len(self._accounts):
            return True
        first = next(each for each in self._accounts if not each.begun)
        expected = sum(max(each.expected, each.held) for each in begun)
        return account is first and expected + peak <= self._total

    def _admits(self, account: "Account", nbytes: int, anyway: bool) -> bool:
        self._refresh()
        anyway = anyway and not any(each.running for each in self._accounts)
        if self._held() + nbytes > self._total:
            return anyway
        fair = account.held + nbytes <= self._total // sum(each.begun for each in self._accounts)
        others = (other for other in self._accounts if other is not account)
        return fair or anyway or not any(other.waits for other in others)


class Account:
    """What one DAG holds, in bytes, by step. expected: the most that it will, as it began."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._holdings = Holdings()
        self.begun = False
        self.expected = 0
        self.running: set[str] = set()
        self.waits = False

    @property
    def held(self) -> int:
        """What the DAG holds."""
        return self._holdings.total

    def begin(self, peak: Callable[[], int | None], at_once: int) -> bool:
        """Return whether the DAG may run steps.

        peak: returns what it is expected to hold at most, None if that is not known; then it is
        taken to be so much that `at_once` such DAGs fit.
        """
        if self.begun:
            return True
        expected = peak()
        with self._budget._lock:
            self._budget._refresh()
            if expected is None:
                expected = self._budget._total // at_once
            self.begun = self._budget._may_begin(self, expected)
            self.expected = expected
            return self.begun

    def take(self, key: str, nbytes: int, *, anyway: bool = False) -> bool:
        """Take memory for a step, if it may run. anyway: also beyond the share or the budget, if
        no step of any DAG runs: waiting would not help.
        """
        with self._budget._lock:
            admitted = self._budget._admits(self, nbytes, anyway)
            self.waits = not admitted
            if admitted:
                self._holdings.put(key, nbytes, nbytes)
                self.running.add(key)
            return admitted

    def wait(self, seconds: float) -> None:
        """Wait until there may be more room than before, so long at most."""
        with self._budget._lock:
            self._budget._lock.wait(seconds)

    def running_bytes(self) -> int:
        """Return what is taken for running steps; the budget's lock is held."""
        return sum(map(self._holdings.of, self.running))

    def steps_at_once(self) -> int:
        """Return how many steps run, of all DAGs that share the budget."""
        with self._budget._lock:
            return sum(len(account.running) for account in self._budget._accounts)

    def excess(self, nbytes: int) -> int:
        """Return by how much `nbytes` more would be too many; not positive if they fit."""
        with self._budget._lock:
            self._budget._refresh()
            return self._budget._held() + nbytes - self._budget._total

    def keep(self, key: str, new: int, size: int) -> None:
        """Note that a step has finished: what is new of its result, and the result's size."""
        with self._budget._lock:
            self._holdings.put(key, new, size)
            self.running.discard(key)
            self._budget._lock.notify_all()

    def fail(self, key: str) -> None:
        """Note that a step has ended without a result."""
        with self._budget._lock:
            self._holdings.remove(key)
            self.running.discard(key)
            self._budget._lock.notify_all()

    def freed(self, key: str, sharers: Iterable[str]) -> int:
        """Return what giving back a step's result would free, beside results that may share it."""
        with self._budget._lock:
            return self._holdings.freed(key, sharers)

    def drop(self, key: str, sharers: Iterable[str]) -> None:
        """Give back what a step's result holds, and no other that may share it refers to."""
        with self._budget._lock:
            self._holdings.let_go(key, sharers)
            self._budget._lock.notify_all()

    def close(self) -> None:
        """Give back everything."""
        with self._budget._lock:
            self._budget._close(self)
