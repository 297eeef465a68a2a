"""What a pickled value refers to is read without unpickling it."""

import pickle

import msgspec
import pytest

from zerrow_ray.travelling import Travelling, travelling_in, with_travelling

SAID = Travelling("ab" * 28, {b"i" * 16: [(b"s" * 16, 1 << 40, 7)], b"j" * 16: []})


class Loaded:
    """Fails when it is unpickled."""

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize("value", [None, [1, "x"] * 10_000, b"x" * (1 << 17), {"a": (1, 2)}])
def test_the_value_is_as_it_was(value):
    stream = with_travelling(pickle.dumps(value, protocol=5), SAID)
    assert travelling_in(memoryview(stream)) == SAID
    assert pickle.loads(stream) == value
    assert pickle._loads(stream) == value  # Python's own


def test_nothing_is_unpickled_for_it():
    stream = with_travelling(pickle.dumps(Loaded(), protocol=5), SAID)
    assert travelling_in(memoryview(stream)) == SAID


@pytest.mark.parametrize(
    "value", [None, b"", b"zerrow", b"zerrow" * 1000, "zerrow", [b"zerrow"], list(range(1000))]
)
def test_other_values_say_nothing(value):
    for protocol in (4, 5):
        assert travelling_in(memoryview(pickle.dumps(value, protocol=protocol))) is None


def test_what_another_version_says_is_nothing():
    stream = with_travelling(pickle.dumps("value", protocol=5), SAID)
    said = msgspec.msgpack.encode(SAID)
    for other in (msgspec.msgpack.encode(1), msgspec.msgpack.encode({"node": "ab"}), said[:-1]):
        changed = stream.replace(said, other + b"\xc0" * (len(said) - len(other)))
        assert travelling_in(memoryview(changed)) is None
        assert pickle.loads(changed) == "value"


def test_no_part_of_a_stream_is_an_error():
    stream = with_travelling(pickle.dumps("value", protocol=5), SAID)
    for length in range(12):
        assert travelling_in(memoryview(stream)[:length]) is None
