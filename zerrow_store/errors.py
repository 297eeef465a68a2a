"""All errors of the store, under one root. Each says what happened and what to do next."""


class ZerrowError(Exception):
    """Root of the errors that zerrow_store raises."""


class StoreUnavailableError(ZerrowError):
    """No store answers under this name, or it speaks another protocol version."""


class StoreFullError(ZerrowError):
    """A put does not fit the store's memory budget. Sizes are in bytes."""

    def __init__(self, *, needed: int, used: int, budget: int) -> None:
        super().__init__(
            f"the store is full: {needed:,} bytes needed, {used:,} of {budget:,} in use. "
            "Delete objects, drop references, or give the store more memory (ZERROW_MEMORY)"
        )
        self.needed = needed
        self.used = used
        self.budget = budget

    def __reduce__(self) -> tuple[object, ...]:
        return _store_full, (self.needed, self.used, self.budget)


def _store_full(needed: int, used: int, budget: int) -> StoreFullError:
    return StoreFullError(needed=needed, used=used, budget=budget)


class ObjectNotFoundError(ZerrowError, KeyError):
    """The store holds no object of this id: it was never put, or was deleted."""

    def __init__(self, object_id: bytes) -> None:
        super().__init__(f"no object {object_id.hex()} in the store: never put, or deleted")
        self.object_id = object_id

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return ObjectNotFoundError, (self.object_id,)


class ObjectExistsError(ZerrowError):
    """An object of this id is in the store already; objects never change."""


class ObjectLostError(ZerrowError):
    """An object's bytes are gone with the process or the machine that held them."""


class DecodeError(ZerrowError):
    """The process that decoded a file for others failed. `kind`: the class of its error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return DecodeError, (self.kind, str(self))


class ProtocolError(ZerrowError):
    """A peer sent what the protocol does not allow."""
