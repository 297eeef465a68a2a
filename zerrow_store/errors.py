"""All errors of the store, under one root. Each says what happened and what to do next."""


class ZerrowError(Exception):
    """Root of the errors that zerrow_store raises."""


class StoreUnavailableError(ZerrowError):
    """No store answers under this name, or it speaks another protocol version."""


class KernelZeroError(ZerrowError):
    """ZERROW_KERNELZERO=on, and the kernel module cannot be used; `zerrow doctor` says the same."""


class HugePagesError(ZerrowError):
    """ZERROW_HUGE_PAGES=on, and there are none; `zerrow doctor` says the same."""


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
    """The store holds no object of this id, or name (a text): it was never put, or was deleted."""

    def __init__(self, object_id: bytes | str) -> None:
        called = repr(object_id) if isinstance(object_id, str) else object_id.hex()
        super().__init__(f"no object {called} in the store: never put, or deleted")
        self.object_id = object_id

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return ObjectNotFoundError, (self.object_id,)


class ObjectExistsError(ZerrowError):
    """An object of this id is in the store already; objects never change."""


class ObjectLostError(ZerrowError):
    """An object's bytes are gone with the process or the machine that held them."""


class ObjectLackingError(ObjectLostError):
    """A machine was asked for an object, and answers that it does not have it."""


class ObjectGoneError(ObjectLostError):
    """An object's machine is gone, and every other machine says that it has no copy."""


class NoOwnerError(ZerrowError):
    """No connected process owns the reference that carries an object, or it is out of scope."""


class DecodeError(ZerrowError):
    """The process that decoded a file for others failed. `kind`: the class of its error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return DecodeError, (self.kind, str(self))


class ProtocolError(ZerrowError):
    """A peer sent what the protocol does not allow."""


class InternalError(ZerrowError):
    """The store failed to handle a request, which is a fault of the store. The request may have
    been carried out in part; the store's log has the traceback.
    """


class SandboxError(ZerrowError):
    """A sandboxed function failed, or returned what it may not.

    type_name and traceback are the failed function's own exception and its traceback, as text: an
    exception object of a sandbox is never unpickled. Both are empty if the sandbox itself failed.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\nin the sandbox:\n{self.traceback}" if self.traceback else text

    def __reduce__(self) -> tuple[object, ...]:
        return _sandbox_error, (self.args[0], self.type_name, self.traceback)


def _sandbox_error(message: str, type_name: str, traceback: str) -> SandboxError:
    return SandboxError(message, type_name=type_name, traceback=traceback)


class SandboxMemoryError(SandboxError):
    """A sandboxed function needed more memory than its limit. Sizes are in bytes."""

    def __init__(self, *, limit: int, peak: int) -> None:
        super().__init__(
            f"the sandboxed function reached its memory limit of {limit:,} bytes (peak: "
            f"{peak:,}). Give it more (memory=...), or let it work on less at a time"
        )
        self.limit = limit
        self.peak = peak

    def __reduce__(self) -> tuple[object, ...]:
        return _sandbox_memory, (self.limit, self.peak)


def _sandbox_memory(limit: int, peak: int) -> SandboxMemoryError:
    return SandboxMemoryError(limit=limit, peak=peak)


class SandboxTimeoutError(SandboxError, TimeoutError):
    """A sandboxed function ran longer than its timeout, and was ended. timeout is in seconds."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"the sandboxed function ran longer than {timeout:g} s, and was ended")
        self.timeout = timeout

    def __reduce__(self) -> tuple[object, ...]:
        return SandboxTimeoutError, (self.timeout,)


class SandboxUnavailableError(ZerrowError):
    """This machine cannot confine a function as asked. `zerrow doctor` says what it can give."""
