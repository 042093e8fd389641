"""Contexts made from exports, for host calls that wait until the engine has taken them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pie_wire.errors import PieError

from pie_runner.contexts import Context
from pie_runner.engine_session import Session
from pie_runner.exports import Archive
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


def bring_in(
    fiber: Fiber, pending: Pending, session: Session, archive: Archive, then: Callable[[Context], None]
) -> None:
    """Call with the context once the engine has it; otherwise the pending call fails."""
    process = process_of(fiber)
    size = archive.size

    def enter() -> None:
        if pending.done:
            session.hold.leave(size)
            return
        try:
            context = Context.from_archive(session, process, archive)
        except PieError as exc:
            session.hold.leave(size)
            pending.fail(exc)
        else:
            session.after_ack(session.last_op, lambda: taken(context))

    def taken(context: Context) -> None:
        session.hold.leave(size)
        if pending.done:
            return
        if context.dead is not None:
            context.close()
            pending.fail(context.dead)
        else:
            then(context)

    pending.on_abandon = session.hold.enter(size, enter)
