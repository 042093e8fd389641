"""Contexts and snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pie_runner import snapshots
from pie_runner.contexts import Context
from pie_runner.host import checks
from pie_runner.host.methods import method, reading
from pie_runner.host.model import ModelHandle
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

T = TypeVar("T")


def create(fiber: Fiber, handle: ModelHandle) -> Context | Pending:
    """An empty context on the process's home engine."""
    process = process_of(fiber)
    context = Context.create(process.facilities.engines.session(process, handle.model.name), process)
    return _paced(fiber, context, context)


def open_snapshot(fiber: Fiber, handle: ModelHandle, name: str) -> Pending:
    """A context with the tokens of a snapshot."""
    return snapshots.open_snapshot(fiber, handle.model, checks.name(name), take=False)


def take_snapshot(fiber: Fiber, handle: ModelHandle, name: str) -> Pending:
    """The same, and the name is gone."""
    return snapshots.open_snapshot(fiber, handle.model, checks.name(name), take=True)


def delete(fiber: Fiber, _handle: ModelHandle, name: str) -> Pending:
    """Forget a snapshot."""
    return snapshots.delete(fiber, checks.name(name))


def save(fiber: Fiber, context: Context, name: str) -> Pending:
    """Save the consumed tokens."""
    return snapshots.save(fiber, context, checks.name(name))


def fork(fiber: Fiber, context: Context) -> Context | Pending:
    """A copy-on-write copy."""
    return _paced(fiber, context, context.fork())


def append(fiber: Fiber, context: Context, tokens: Sequence[int]) -> Ok | Pending:
    """Tokens at the end."""
    plain = checks.plain(tokens)
    context.session.model.tokenizer.check(plain)
    context.append(plain)
    return _paced(fiber, context, Ok())


def truncate(fiber: Fiber, context: Context, length: int) -> Ok | Pending:
    """Keep the first tokens."""
    context.truncate(length)
    return _paced(fiber, context, Ok())


def _paced(fiber: Fiber, context: Context, result: T) -> T | Pending:
    """The result, now; or once the engine has caught up, if far too much is under way."""
    session = context.session
    if not session.is_flooded:
        return result
    pending = Pending(fiber)
    session.after_ack(session.last_op, lambda: pending.resolve(result))
    return pending


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]context.create": create,
    "[static]context.open": open_snapshot,
    "[static]context.take": take_snapshot,
    "[static]context.delete": delete,
    "[method]context.save": save,
    "[method]context.fork": fork,
    "[method]context.append": append,
    "[method]context.truncate": truncate,
    "[method]context.flush": method(Context.flush),
    "[method]context.tokens": reading(Context, lambda context: context.tokens),
    "[method]context.length": reading(Context, lambda context: len(context.tokens)),
}
