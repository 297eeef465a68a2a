"""What a node's agent makes of what the cluster's control store says."""

import pytest

from zerrow_ray import cluster
from zerrow_ray.agent import Member

SELF, OTHER, THIRD = b"s" * 28, b"o" * 28, b"t" * 28


class ControlStore:
    """As `ray_compat.Gcs`."""

    def __init__(self) -> None:
        self.alive = [SELF, OTHER, THIRD]
        self.values: dict[bytes, bytes] = {}

    def nodes(self) -> list[bytes]:
        return self.alive

    def get_all(self, keys: list[bytes]) -> dict[bytes, bytes]:
        return {key: self.values[key] for key in keys if key in self.values}

    def put(self, key: bytes, value: bytes, *, overwrite: bool) -> None:
        assert overwrite
        self.values[key] = value


def key(node: bytes) -> bytes:
    return cluster.location_key(node.hex())


@pytest.fixture
def control() -> ControlStore:
    return ControlStore()


@pytest.fixture
def member(control: ControlStore) -> Member:
    made = Member(control, SELF.hex(), "127.0.0.1")  # type: ignore[arg-type]
    made._location = "127.0.0.1:7"
    control.values[key(OTHER)] = b"127.0.0.1:8"
    return made


def test_it_says_where_it_serves_and_knows_the_others(control, member):
    assert member._others() == {OTHER: "127.0.0.1:8", THIRD: ""}
    assert control.values[key(SELF)] == b"127.0.0.1:7"


def test_nodes_that_are_not_alive_have_left(control, member):
    member._others()
    control.alive = [SELF, THIRD]
    assert member._others() == {THIRD: ""}


def test_nodes_whose_stores_have_ended_have_left(control, member):
    member._others()
    control.values[key(OTHER)] = cluster.NOWHERE
    assert member._others() == {THIRD: ""}


@pytest.mark.parametrize("alive", [[SELF, OTHER, THIRD], [OTHER], []])
def test_a_control_store_that_has_forgotten_makes_nobody_leave(control, member, alive):
    known = member._others()
    control.values.clear()
    control.alive = alive
    assert member._others() == known
    control.alive = [SELF, OTHER, THIRD]
    assert member._others() == known
    assert control.values[key(SELF)] == b"127.0.0.1:7"


def test_who_withdraws_is_nowhere(control, member):
    member._others()
    member.withdraw()
    assert control.values[key(SELF)] == cluster.NOWHERE


def test_who_is_alone_serves_nobody_and_withdraws_nothing(control):
    control.alive = [SELF]
    alone = Member(control, SELF.hex(), "127.0.0.1")  # type: ignore[arg-type]
    assert alone.is_alone()
    alone.withdraw()
    assert not control.values
