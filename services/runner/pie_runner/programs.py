"""The seam between the core and what really runs a program: Wasm fibers, or coroutines in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pie_wire.errors import PieError

if TYPE_CHECKING:
    from pie_runner.process import Process

Outcome = str | PieError
"""JSON text that the program returned, or why it did not."""


class RunningProgram(Protocol):
    """A program that has been taken on, whether it is still being prepared or runs already."""

    def kill(self, reason: PieError) -> None:
        """End it now, in whatever state; `on_exit` may be called with `reason`, or not at all. Repeats are harmless."""
        ...


class ProgramHost(Protocol):
    """Runs programs. Everything is called, and calls back, on the loop thread."""

    def start(
        self,
        process: Process,
        artifact: Callable[[], bytes],
        on_running: Callable[[], None],
        on_exit: Callable[[Outcome], None],
    ) -> RunningProgram:
        """Take on a program: its bytes are in `artifact()`. `on_running` is called once before its first host call,
        `on_exit` exactly once unless it is killed, and never before this returns.

        Raises:
            PieError: it cannot be taken on.
        """
        ...
