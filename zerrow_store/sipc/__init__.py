"""SIPC: Arrow data as small messages that refer to bytes lying in segments.

A low layer, documented by `zerrow_store/native/_native.pyi` and, as a format, by
`docs/sipc.md`. Whoever encodes has to unpin `Encoded.own` in the end; whoever decodes has
to map the message's segments first, and says by `owner` what lives as long as the data.
"""

from zerrow_store.native._native import (
    Encoded,
    SipcError,
    decode,
    encode,
    encode_buffers,
    map_segment,
    mapped_segments,
    message_allocations,
    message_segments,
    unmap_segment,
    view,
)

__all__ = [
    "Encoded",
    "SipcError",
    "decode",
    "encode",
    "encode_buffers",
    "map_segment",
    "mapped_segments",
    "message_allocations",
    "message_segments",
    "unmap_segment",
    "view",
]
