"""The part of a server that is independent of sockets."""

import selectors

from zerrow_store.policy import Policy
from zerrow_store.server.admission import Admission
from zerrow_store.server.connection import Connection
from zerrow_store.server.decode_cache import DecodeCache
from zerrow_store.server.decoded_columns import DecodedColumns
from zerrow_store.server.effects import Effects
from zerrow_store.server.eviction import Evictor
from zerrow_store.server.eviction_records import Records
from zerrow_store.server.idle_objects import IdleObjects
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.owners import Owners
from zerrow_store.server.page_cache import PageCache
from zerrow_store.server.producer_quota import ProducerQuota
from zerrow_store.server.put_queue import PutQueue
from zerrow_store.server.readers import Readers
from zerrow_store.server.sealed_segments import SealedSegments
from zerrow_store.server.segment_processes import SegmentProcesses
from zerrow_store.server.spill import Spiller, spill_directory
from zerrow_store.server.state import State


class Core:
    """Builds the components of a server, in the order in which they depend on each other.

    selector: tells when a process ends that one of the parts watches.
    """

    def __init__(self, budget: int, policy: Policy, selector: selectors.BaseSelector) -> None:
        self.effects = Effects()
        self.state = State(self.effects, budget)
        self.records = Records()
        self.spiller = Spiller(spill_directory(), self.state)
        self.idle = IdleObjects(self.state, self.spiller, policy)
        self.page_cache = PageCache(self.state, self.records)
        self.lifetimes = Lifetimes(self.state, self.idle, self.page_cache)
        self.readers = Readers(self.state, self.lifetimes, selector)
        self.processes = SegmentProcesses(self.state, self.lifetimes, selector)
        self.evictor = Evictor(self.state, self.lifetimes, self.idle, self.spiller, self.records)
        self.quota = ProducerQuota(self.state, self.spiller)
        self.admission = Admission(self.state)
        self.sealed = SealedSegments(self.state, self.processes)
        self.put_queue = PutQueue(
            self.state, self.lifetimes, self.evictor, self.admission, self.sealed
        )
        self.owners = Owners(self.state, self.lifetimes, self.put_queue, self.admission)
        self.columns = DecodedColumns(self.state, self.lifetimes, self.evictor, self.admission)
        self.cache = DecodeCache(
            self.state, self.lifetimes, self.columns, self.admission, self.sealed
        )

    def restored(self) -> None:
        """Take up an object table that has come from a supervisor, after a crash."""
        # In this order: objects are deleted with the processes that have ended meanwhile, but none
        # of them goes before it is known of all readers that live on what they hold.
        self.lifetimes.restored()
        self.readers.restored()
        self.processes.restored()
        if self.state.all_returned():
            self.lifetimes.end_orphans()

    def dropped(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self.state.detach(connection)
        self.readers.dropped(connection)
        self.cache.dropped(connection)
        self.owners.dropped(connection)
        self.put_queue.dropped(connection)
