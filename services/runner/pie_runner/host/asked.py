"""Questions to an engine that a host call waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pie_wire.errors import PieError
from pie_wire.messages.base import Message, Request

from pie_runner.wasm.hostcall import Pending

if TYPE_CHECKING:
    from pie_runner.engine_session import Session
    from pie_runner.wasm.fiber import Fiber

R = TypeVar("R", bound=Message)


def asked(fiber: Fiber, session: Session, request: Request[R], read: Callable[[R], object]) -> Pending:
    """A Pending for what `read` makes of the answer. Raises the session's end."""
    pending = Pending(fiber)

    def answered(answer: R | None, error: PieError | None) -> None:
        if answer is not None:
            pending.resolve(read(answer))
        elif error is not None:
            pending.fail(error)

    pending.on_abandon = session.ask(request, answered)
    return pending
