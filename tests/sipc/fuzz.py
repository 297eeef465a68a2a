"""Decodes forged messages; run as a program, so that a crash is seen as its exit status.

    python -m tests.sipc.fuzz SEED ROUNDS

First every reference of every sample's stream is each of the extremes once, then there are
ROUNDS messages with random forgeries.

Every message is refused with SipcError, or decodes to data that passes Arrow's cheap
validation. What passes the full one also has to be usable.
"""

import itertools
import random
import struct
import sys
from collections.abc import Callable, Iterator

import pyarrow as pa

from tests.helpers.examples import EXAMPLES
from tests.helpers.xxh64 import seal
from zerrow_store.native import _native

EXTREMES = [-1, -2, -3, -4, 0, 1, 2, 7, 255, 1 << 20, 1 << 31, 1 << 32, (1 << 62) + 1]
EXTREMES += [(1 << 63) - 1, -(1 << 63)]


def samples() -> list[bytes]:
    table = pa.table({"a": pa.array(range(50)), "s": pa.array([str(i) for i in range(50)])})
    messages = [_native.encode(array).message for array in EXAMPLES.values()]
    messages.append(_native.encode(table).message)
    messages.append(_native.encode(table.to_batches()[0].slice(5, 9)).message)
    messages.append(_native.encode(pa.chunked_array([EXAMPLES["dictionary"]] * 3)).message)
    messages.append(_native.encode_buffers(b"header", [b"x" * 10, b"y" * 1000]).message)
    return messages


def words_of(message: bytes) -> int:
    return int(struct.unpack_from("<Q", message, 48)[0])


def with_words(message: bytes, first: int, last: int, value: int) -> bytes:
    """The message with one word in place of those from first up to last."""
    start = len(message) - 8 * words_of(message)
    stream = message[start : start + 8 * first] + struct.pack("<q", value)
    stream += message[start + 8 * last :]
    return message[:48] + struct.pack("<Q", len(stream) // 8) + message[56:start] + stream


def flip_bits(message: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)


def put_extreme(message: bytearray, rng: random.Random) -> None:
    at = 16 + 8 * rng.randrange((len(message) - 16) // 8)
    struct.pack_into("<q", message, at, rng.choice(EXTREMES))


def put_extreme_in_stream(message: bytearray, rng: random.Random) -> None:
    words = max(1, words_of(message))
    # The count itself may have been forged before.
    at = len(message) - 8 * rng.randrange(1, min(words, (len(message) - 56) // 8) + 1)
    struct.pack_into("<q", message, at, rng.choice(EXTREMES))


def truncate(message: bytearray, rng: random.Random) -> None:
    del message[rng.randrange(16, len(message)) :]


def extend(message: bytearray, rng: random.Random) -> None:
    message += rng.randbytes(rng.choice([1, 8, 100]))


def copy_words(message: bytearray, rng: random.Random) -> None:
    count = 8 * rng.randrange(1, 5)
    if len(message) >= 64 + count:
        source = rng.randrange(7, (len(message) - count) // 8) * 8
        target = rng.randrange(7, (len(message) - count) // 8) * 8
        message[target : target + count] = message[source : source + count]


def garbage(message: bytearray, rng: random.Random) -> None:
    message[16:] = rng.randbytes(rng.randrange(200))


FORGERIES: list[Callable[[bytearray, random.Random], None]] = [
    flip_bits,
    put_extreme,
    put_extreme_in_stream,
    put_extreme_in_stream,
    truncate,
    extend,
    copy_words,
    garbage,
]


def decode(message: bytes) -> bool:
    try:
        decoded = _native.decode(message, None)
    except _native.SipcError:
        return False
    if isinstance(decoded, tuple):
        return bool(decoded[1] is not None and [buffer.to_pybytes() for buffer in decoded[1]])
    decoded.validate()
    try:
        decoded.validate(full=True)
    except pa.ArrowException:
        return True
    if decoded.get_total_buffer_size() < 1 << 20:
        _native.encode(decoded)
    return True


def extremes_everywhere(message: bytes) -> Iterator[bytes]:
    for first, last in itertools.combinations(range(words_of(message) + 1), 2):
        # A buffer's reference has one word or three.
        if last - first in (1, 3):
            for extreme in EXTREMES:
                yield seal(with_words(message, first, last, extreme))


def main(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    _native.capture_arrow(True)
    messages = samples()
    passed = sum(decode(message) for message in messages)
    assert passed == len(messages)
    for message in messages:
        for forged in extremes_everywhere(message):
            decode(forged)
    accepted = 0
    for _ in range(rounds):
        forgery = bytearray(rng.choice(messages))
        for _ in range(rng.choice([1, 1, 1, 3])):
            if len(forgery) > 72:
                rng.choice(FORGERIES)(forgery, rng)
        accepted += decode(seal(bytes(forgery)) if len(forgery) >= 16 else bytes(forgery))
    print(f"{rounds} messages, {accepted} accepted")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
