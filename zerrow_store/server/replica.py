"""A replica of a store's object table.

The object table and the segments' descriptors, as they arrive from another process of the store. A
supervisor keeps these, and a new server takes them over from a supervisor. Both apply the events
that they receive here.
"""

import os
from collections.abc import Iterator

from zerrow_store.protocol import events
from zerrow_store.protocol.framing import Frame
from zerrow_store.server.object_table import ObjectTable


class Replica:
    """An object table, and the descriptor of each of its segments, which it owns."""

    def __init__(self) -> None:
        self.table = ObjectTable()
        self.descriptors: dict[bytes, int] = {}

    def receive(self, frame: Frame) -> events.Mark | None:
        """Apply the event that has arrived.

        Returns
        -------
        Mark or None
            What has arrived, if it was a mark and no event. The frame's descriptors are the
            caller's then.

        Raises
        ------
        ProtocolError
            If it is malformed. Nothing has changed then.
        """
        message = events.decode(frame.kind, frame.raw)
        if isinstance(message, events.Mark):
            return message
        descriptors = frame.take_descriptors(message.descriptors)
        if isinstance(message, events.SegmentAdded):
            (self.descriptors[message.segment_id],) = descriptors
        self.table.apply(message)
        if isinstance(message, events.SegmentRemoved):
            os.close(self.descriptors.pop(message.segment_id))
        return None

    def snapshot(self) -> Iterator[tuple[events.Event, list[int]]]:
        """Iterate over events that make an equal replica, each with its descriptors."""
        for event in self.table.snapshot():
            yield event, descriptors_of(event, self.descriptors)

    def close(self) -> None:
        """Close the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


def descriptors_of(event: events.Event, descriptors: dict[bytes, int]) -> list[int]:
    """Return the descriptors that go with an event."""
    return [descriptors[event.segment_id]] if isinstance(event, events.SegmentAdded) else []
