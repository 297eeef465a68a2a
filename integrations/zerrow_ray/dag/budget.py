"""The memory budget that the DAGs of a driver share.

A DAG *begins* when there is room for its expected peak: many DAGs at once with little memory each
would only hinder each other. DAGs that fit into a fair share (the budget by the number of DAGs)
begin at once, the others in order; two begin in any case, so that one large DAG does not stop all
others. A DAG that holds more than its share starts no steps while another one waits. Drivers that
run DAGs at the same time have equal parts of the stores' memory, whatever the others need.
"""

import threading
import time
from collections.abc import Callable, Iterable

from zerrow_ray.dag.charges import Charges

_REFRESH_SECONDS = 1.0

_LEAST_AT_ONCE = 2
"""The number of DAGs that begin whatever they need."""


class Budget:
    """The bytes that the DAGs of this driver may hold together. Thread-safe.

    Parameters
    ----------
    measure
        Returns the budget in bytes, given the number of drivers that share it and the bytes that
        these DAGs' results hold already. Called when the first DAG begins, and when the number of
        drivers changes.
    drivers
        Returns the number of drivers that run DAGs.
    announce
        Called with True when the first DAG begins, and with False when the last one has ended.
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
        # Notified when memory may have become free.
        self._lock = threading.Condition()
        self._accounts: list[Account] = []

    def open(self) -> "Account":
        """Return an account for one DAG. The caller closes it."""
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
    """The memory of one DAG, charged to its steps. Thread-safe.

    Attributes
    ----------
    begun
        Whether the DAG may run steps.
    expected
        Its expected peak in bytes, from when it began.
    running
        The keys of its running steps.
    waits
        Whether a step waits for memory.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._charges = Charges()
        self.begun = False
        self.expected = 0
        self.running: set[str] = set()
        self.waits = False

    @property
    def held(self) -> int:
        """Return the bytes that the DAG holds."""
        return self._charges.total

    def begin(self, peak: Callable[[], int | None], at_once: int) -> bool:
        """Return whether the DAG may run steps.

        Parameters
        ----------
        peak
            Returns the DAG's expected peak in bytes; None if it is unknown.
        at_once
            How many DAGs of unknown peak fit into the budget.
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
        """Take memory for a step; return False if it must wait.

        Parameters
        ----------
        key
            The step.
        nbytes
            The bytes that it is expected to need.
        anyway
            Whether to exceed share and budget if no step of any DAG runs: waiting would not help.
        """
        with self._budget._lock:
            admitted = self._budget._admits(self, nbytes, anyway)
            self.waits = not admitted
            if admitted:
                self._charges.charge(key, nbytes, nbytes)
                self.running.add(key)
            return admitted

    def wait(self, seconds: float) -> None:
        """Wait until memory may have become free, for some seconds at most."""
        with self._budget._lock:
            self._budget._lock.wait(seconds)

    def running_bytes(self) -> int:
        """Return the bytes taken for running steps. The caller has the budget's lock."""
        return sum(map(self._charges.of, self.running))

    def steps_at_once(self) -> int:
        """Return the number of running steps of all DAGs that share the budget."""
        with self._budget._lock:
            return sum(len(account.running) for account in self._budget._accounts)

    def excess(self, nbytes: int) -> int:
        """Return by how many bytes `nbytes` more would exceed the budget; <= 0 if they fit."""
        with self._budget._lock:
            self._budget._refresh()
            return self._budget._held() + nbytes - self._budget._total

    def keep(self, key: str, new: int, size: int) -> None:
        """Charge a finished step with the new bytes of its result. size: of the whole result."""
        with self._budget._lock:
            self._charges.charge(key, new, size)
            self.running.discard(key)
            self._budget._lock.notify_all()

    def fail(self, key: str) -> None:
        """Uncharge a step that has ended without a result."""
        with self._budget._lock:
            self._charges.uncharge(key)
            self.running.discard(key)
            self._budget._lock.notify_all()

    def freed(self, key: str, sharers: Iterable[str]) -> int:
        """Return the bytes that dropping a result would free, given those that may share them."""
        with self._budget._lock:
            return self._charges.freed(key, sharers)

    def drop(self, key: str, sharers: Iterable[str]) -> None:
        """Drop a result. Charge the bytes that other results share to these."""
        with self._budget._lock:
            self._charges.release(key, sharers)
            self._budget._lock.notify_all()

    def close(self) -> None:
        """Release all memory of the DAG."""
        with self._budget._lock:
            self._budget._close(self)
