"""Processes that own objects, and processes that publish for them."""

from tests.helpers.python import Worker
from tests.helpers.stores import Store

PUBLISH = """
    from zerrow_store.native import _native
    from zerrow_store.protocol.messages import Carrier
    rows = pa.array(range(100_000), pa.int64())
    def publish(object_id, reference, owner_id=b""):
        data = pa.table({"x": pc.add(rows, 1)})
        try:
            client.publish(object_id, _native.encode(data), carrier=Carrier(reference, owner_id))
        except zerrow_store.errors.NoOwnerError:
            return False
        return True
"""


OWNER = """
    import zerrow_store
    from zerrow_store.client.client import Client
    class Owner:
        id = {id!r}
        def __init__(self):
            self.asked, self.stored = [], []
        def claims(self, object_id, reference):
            self.asked.append((object_id, reference))
            return reference.startswith(self.id)
        def item_stored(self, object_id, reference):
            self.stored.append((object_id, reference))
    zerrow_store.memory.start()
    owner = Owner()
    owning = Client({name!r}, owner=owner)
"""


def owner(store: Store, owner_id: bytes) -> Worker:
    worker = store.worker()
    worker.do(OWNER.format(id=owner_id, name=store.name))
    return worker
