"""Named contexts, kept by kvstore as their tokens. Their KV is found in the engine's cache, or computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pie_wire.errors import BadRequest, NotFound, PieError, StoreUnavailable, Unavailable
from pie_wire.hub import Answer
from pie_wire.membership import KVSTORE
from pie_wire.messages.base import Message, Request
from pie_wire.messages.engine import Prefetch
from pie_wire.messages.kvstore import DeleteSnapshot, GetSnapshot, PutSnapshot, Snapshot, SnapshotRow

from pie_runner.contexts import Context
from pie_runner.models import Model
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

TIMEOUT = 5.0

R = TypeVar("R", bound=Message)


def save(fiber: Fiber, context: Context, name: str) -> Pending:
    """Waits until the engine has accepted what the context holds, then until kvstore has the snapshot."""
    context.check_settled()
    process = process_of(fiber)
    pending = Pending(fiber)
    session = context.session

    def accepted() -> None:
        if pending.done:
            return
        error = context.take_fault()
        if error is not None:
            pending.fail(error)
            return
        snapshot = Snapshot(
            name, session.facts.name, list(context.tokens), process.facilities.wall(), session.peer.name
        )
        _request(fiber, pending, PutSnapshot(snapshot), lambda _: pending.resolve(Ok()))

    session.after_ack(context.last_op, accepted)
    return pending


def open_snapshot(fiber: Fiber, model: Model, name: str, *, take: bool) -> Pending:
    """A context with the snapshot's tokens, or None. A name saved with another model is refused, and kept."""
    process = process_of(fiber)
    pending = Pending(fiber)

    def restore(row: SnapshotRow) -> None:
        snapshot = row.snapshot
        context: Context | None = None
        try:
            _check_model(snapshot, model)
            context = Context.create(process.facilities.engines.session(process, model.name), process)
            context.append(snapshot.tokens)
        except PieError as exc:
            if context is not None:
                context.close()
            pending.fail(exc)
        else:
            pending.resolve(Ok(context))

    def found(row: SnapshotRow) -> None:
        if take and row.snapshot.model == model.name:
            _request(fiber, pending, GetSnapshot(name, take=True), restore, missing=Ok(None))
        else:
            restore(row)

    _request(fiber, pending, GetSnapshot(name), found, missing=Ok(None))
    return pending


def prefetch(fiber: Fiber, model: Model, name: str) -> Pending:
    """True once the home engine has been asked to compute the snapshot's KV ahead; False when there is no such name."""
    process = process_of(fiber)
    pending = Pending(fiber)

    def found(row: SnapshotRow) -> None:
        snapshot = row.snapshot
        try:
            _check_model(snapshot, model)
            session = process.facilities.engines.session(process, model.name)
        except PieError as exc:
            pending.fail(exc)
            return
        session.submit(Prefetch(process.pid, process.scope.tenant, process.account, snapshot.tokens))
        pending.resolve(Ok(True))

    _request(fiber, pending, GetSnapshot(name), found, missing=Ok(False))
    return pending


def delete(fiber: Fiber, name: str) -> Pending:
    """True if there was one."""
    pending = Pending(fiber)
    _request(fiber, pending, DeleteSnapshot(name), lambda _: pending.resolve(Ok(True)), missing=Ok(False))
    return pending


def _check_model(snapshot: Snapshot, model: Model) -> None:
    if snapshot.model != model.name:
        raise BadRequest(f"snapshot {snapshot.name!r} belongs to model {snapshot.model!r}: load that model to open it")


def _request(
    fiber: Fiber, pending: Pending, request: Request[R], then: Callable[[R], None], *, missing: Ok | None = None
) -> None:
    """Ask kvstore on behalf of the process's owner. NotFound answers with `missing`, if given; errors fail the call."""
    process = process_of(fiber)
    hub = process.facilities.hub

    def answered(answer: Answer[R]) -> None:
        if pending.done:
            return
        error = answer.error
        if error is None:
            then(answer.value())
        elif isinstance(error, NotFound) and missing is not None:
            pending.resolve(missing)
        elif isinstance(error, Unavailable):
            pending.fail(StoreUnavailable(f"snapshots are not available now: {error.message}", cause=error.code))
        else:
            pending.fail(error)

    try:
        number = hub.request(KVSTORE, request, answered, timeout=TIMEOUT, scope=process.scope)
    except PieError as exc:
        pending.fail(exc)
    else:
        pending.on_abandon = lambda: hub.cancel(number)
