"""Links and senders of each test's own, which end with it."""

from collections.abc import Callable, Iterator

import pytest

from tests.helpers.links import Liar, Link
from tests.helpers.machines import Machine


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
