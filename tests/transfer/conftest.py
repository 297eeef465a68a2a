"""Two machines of each test's own; nothing is left of them afterwards."""

from collections.abc import Callable, Iterator

import pytest

from tests.transfer.helpers import Liar, Link, Machine


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Makes machines."""
    made: list[Machine] = []

    def make(*arguments: object, **options: object) -> Machine:
        made.append(Machine(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def there(machine: Callable[..., Machine]) -> Machine:
    """Where objects are."""
    return machine()


@pytest.fixture
def here(machine: Callable[..., Machine]) -> Machine:
    """Where they are wanted."""
    return machine()


@pytest.fixture
def link(there: Machine) -> Iterator[Callable[..., Link]]:
    """Makes links to `there`."""
    made: list[Link] = []

    def make(location: str | None = None, **options: object) -> Link:
        made.append(Link(location or there.serve(), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def liar() -> Iterator[Callable[..., Liar]]:
    """Makes senders that know the secret, and answer as they like."""
    made: list[Liar] = []

    def make(*arguments: object, **options: object) -> Liar:
        made.append(Liar(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()
