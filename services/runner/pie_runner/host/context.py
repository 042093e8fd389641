"""Contexts and snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pie_runner import snapshots
from pie_runner.contexts import Context
from pie_runner.host import checks
from pie_runner.host.methods import method, reading
from pie_runner.host.model import ModelHandle
from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber


def create(fiber: Fiber, handle: ModelHandle) -> Context:
    """An empty context on the process's home engine."""
    process = process_of(fiber)
    return Context.create(process.services.engines.session(process, handle.model.name), process)


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


def append(_fiber: Fiber, context: Context, tokens: Sequence[int]) -> None:
    """Tokens at the end."""
    plain = checks.plain(tokens)
    context.session.model.tokenizer.check(plain)
    context.append(plain)


FUNCTIONS: Mapping[str, HostFunction] = {
    "[static]context.create": create,
    "[static]context.open": open_snapshot,
    "[static]context.take": take_snapshot,
    "[static]context.delete": delete,
    "[method]context.save": save,
    "[method]context.fork": method(Context.fork),
    "[method]context.append": append,
    "[method]context.truncate": method(Context.truncate),
    "[method]context.flush": method(Context.flush),
    "[method]context.tokens": reading(Context, lambda context: context.tokens),
    "[method]context.length": reading(Context, lambda context: len(context.tokens)),
}
