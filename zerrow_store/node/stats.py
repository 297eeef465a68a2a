"""A store's figures, and asking for them without being a client: no pyarrow, no arena, no holds."""

from dataclasses import asdict, dataclass
from typing import Any

from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.node import messages as m
from zerrow_store.node import protocol
from zerrow_store.node.wire_errors import make_error

_PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class StoreStats:
    """Figures of a store; sizes in bytes.

    `bytes_stored` is held in memory now, each byte once, `bytes_spilled` on disk. The other
    `bytes_*` are running counts of what was published where it lay, referred to in somebody else's
    segment, and copied. The bandwidths are in bytes a second, as last measured;
    `spill_processor_bandwidth` in bytes a second of a processor's time. eviction: the
    policy's name. log: where the server logs; its supervisors have a file beside that.

    The following begin at zero with each start of the server. puts: publications of this machine's
    processes that were taken; puts_waited: publications that waited for room; puts_refused: by the
    error's name. evicted: by way ("drop", "spill", "rollback"), the `count`, the `bytes`, and the
    `expected_seconds` and `seconds` as `Eviction` has them. cache: of decoded columns, the
    `entries` now, the column chunks found (`hits`) and decoded by their reader (`misses`), the
    `decoding_seconds` of the columns entered, and the `saved_seconds` of the chunks found.
    transfers: `received_objects`, `received_bytes` and `sent_bytes`. sandbox: what `count_sandbox`
    was told.
    """

    objects: int
    bytes_stored: int
    bytes_spilled: int
    bytes_shared: int
    bytes_reshared: int
    bytes_copied: int
    spill_bandwidth: int
    spill_processor_bandwidth: int
    read_back_bandwidth: int
    budget: int
    eviction: str
    segments: int
    clients: int
    pid: int
    supervisors: int
    log: str
    puts: int
    puts_waited: int
    puts_refused: dict[str, int]
    evicted: dict[str, dict[str, float]]
    cache: dict[str, float]
    transfers: dict[str, int]
    sandbox: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def observe(name: str) -> StoreStats:
    """Return the figures of the store `name`, over a connection of their own. An observer is no
    user: it does not keep an unused store from ending.

    Raises StoreUnavailableError.
    """
    reader = protocol.FrameReader()
    with protocol.connect(name) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            for request in (m.Hello(protocol.PROTOCOL_VERSION, "observer"), m.Stats()):
                protocol.send(connection, protocol.pack(request.kind, 1, request))
                answer = reader.read(connection)
                if answer.kind == "error":
                    raise make_error(*answer.body)
        except (OSError, ProtocolError) as error:
            raise StoreUnavailableError(f"the store {name!r} does not answer: {error}") from error
    return StoreStats(**answer.body)
