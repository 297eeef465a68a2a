"""Carries out effects."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from zerrow_store.errors import InternalError, ProtocolError, ZerrowError
from zerrow_store.protocol import framing
from zerrow_store.protocol.wire_errors import describe
from zerrow_store.segments import punch
from zerrow_store.server import effects
from zerrow_store.server.connections import Connections
from zerrow_store.server.replication import Replication
from zerrow_store.server.statistics import Statistics

logger = logging.getLogger("zerrow_store.server")


class Delivery:
    """See the module. stopped: whether the store's end is meant."""

    def __init__(
        self, connections: Connections, replication: Replication, statistics: Statistics
    ) -> None:
        self._connections = connections
        self._replication = replication
        self._statistics = statistics
        self.stopped = False
        self._by_type: dict[type[effects.Effect], Callable[[Any], None]] = {
            effects.Replicate: self._replicate,
            effects.HandOver: self._hand_over,
            effects.Notify: self._notify,
            effects.NotifyAll: self._notify_all,
            effects.Reply: self._reply,
            effects.Refuse: self._refuse,
            effects.Punch: self._punch,
            effects.Close: self._close,
            effects.Stop: self._stop,
        }

    def carry_out(self, collected: Iterable[effects.Effect]) -> None:
        """Carry effects out in their order."""
        for effect in collected:
            self._by_type[type(effect)](effect)

    def _replicate(self, effect: effects.Replicate) -> None:
        self._replication.replicate(effect.event, effect.descriptors)

    def _hand_over(self, effect: effects.HandOver) -> None:
        self._replication.hand_over(effect.connection, effect.identity)

    def _notify(self, effect: effects.Notify) -> None:
        self._connections.send([effect.connection], effect.notice)

    def _notify_all(self, effect: effects.NotifyAll) -> None:
        self._connections.send(self._connections.greeted(effect.role), effect.notice)

    def _reply(self, effect: effects.Reply) -> None:
        call, descriptors = effect.call, effect.descriptors
        try:
            if call.request_id:
                frame = framing.pack("reply", call.request_id, effect.body, len(descriptors))
                self._statistics.answered(call)
                self._connections.send_frame(call.connection, frame, descriptors)
        except Exception as error:  # as a reply that is too large
            self._refuse(effects.Refuse(call, error))
        finally:
            for fd in descriptors:
                os.close(fd)

    def _refuse(self, effect: effects.Refuse) -> None:
        call, error = effect.call, effect.error
        pid = call.connection.pid
        self._statistics.refused(call, error)
        if isinstance(error, ProtocolError):
            logger.warning("refused a request of process %d: %s", pid, error)
        elif not isinstance(error, ZerrowError):
            logger.error("a request %r of process %d failed", call.kind, pid, exc_info=error)
            error = InternalError(
                f"the store failed over {call.kind!r}: {error!r}; its log, "
                f"{self._statistics.log}, says where"
            )
        if call.request_id:
            frame = framing.pack("error", call.request_id, describe(error))
            self._connections.send_frame(call.connection, frame)

    def _punch(self, effect: effects.Punch) -> None:
        punch(effect.descriptor, effect.start, effect.end)

    def _close(self, effect: effects.Close) -> None:
        os.close(effect.descriptor)

    def _stop(self, effect: effects.Stop) -> None:
        self.stopped = True
        self._replication.end()
