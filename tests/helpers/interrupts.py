"""Interrupts at every step of what a thread does in some folders of the package."""

import dis
import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import zerrow_store

PACKAGE = Path(zerrow_store.__file__).parent


@functools.cache
def interruptible(code: CodeType) -> frozenset[int]:
    """The offsets at which Python raises what another thread, or a signal, wants to be raised: at a
    function's beginning, and after each call.
    """
    instructions = list(dis.get_instructions(code))
    return frozenset(
        here.offset
        for before, here in itertools.pairwise(instructions)
        if before.opname.startswith("CALL") or before.opname == "RESUME"
    )


class Interrupt:
    """Raises KeyboardInterrupt at the step number `at` of what this thread does in `folders`."""

    def __init__(self, at: int, folders: tuple[str, ...]) -> None:
        self._left = at
        self._folders = tuple(str(PACKAGE / folder) for folder in folders)
        self.raised = False

    def __enter__(self) -> "Interrupt":
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> bool:
        sys.settrace(None)
        return self.raised and error[0] is KeyboardInterrupt

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._folders):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_lasti in interruptible(frame.f_code) and not self.raised:
            self._left -= 1
            if self._left < 0:
                self.raised = True
                raise KeyboardInterrupt
        return self._trace


def steps(*folders: str) -> Iterator[Interrupt]:
    """Yield interrupts at one step after the other, until nothing is left to be interrupted."""
    for at in range(10_000):
        interrupt = Interrupt(at, folders)
        yield interrupt
        if not interrupt.raised:
            assert at > 10
            return
