"""Contexts: their tokens, their pages, and their snapshots."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec
from pie_wire.errors import BadRequest
from pie_wire.messages.engine import AdapterUse, Unpin

from pie_runner import snapshots
from pie_runner.contexts import Context
from pie_runner.exports import PendingExport
from pie_runner.host import checks, transfers
from pie_runner.host.futures import waitable_id
from pie_runner.host.methods import method, reading
from pie_runner.host.model import ModelHandle
from pie_runner.process import Process, process_of
from pie_runner.waitables import Completion
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

T = TypeVar("T")

MAX_ADAPTERS = 8
MAX_ADAPTER_NAME = 300
MAX_WEIGHT = 1000.0
MAX_PIN_SECONDS = 86_400.0


class PageCount(NamedTuple):
    """The WIT's `page-count`."""

    committed: int
    working: int
    room: int | None


class AdapterRecord(Protocol):
    """The WIT's `adapter-use`."""

    @property
    def adapter(self) -> str: ...
    @property
    def weight(self) -> float: ...


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


def drop_tokens(fiber: Fiber, context: Context, start: int, stop: int) -> Completion:
    """Forget tokens inside."""
    return context.drop_tokens(start, stop)


def reserve(fiber: Fiber, context: Context, pages: int) -> Ok | Pending:
    """Room for working pages."""
    context.reserve(pages)
    return _paced(fiber, context, Ok())


def release(fiber: Fiber, context: Context, pages: int) -> Ok | Pending:
    """Room for fewer."""
    context.release(pages)
    return _paced(fiber, context, Ok())


def pages(_fiber: Fiber, context: Context) -> PageCount:
    """Sealed pages, working ones, and how many more it may have."""
    layout, length, size = context.layout, len(context.tokens), context.session.facts.page_size
    filled = layout.filled(length, size)
    return PageCount(layout.committed, filled, None if layout.reserved is None else layout.reserved - filled)


def set_adapters(fiber: Fiber, context: Context, adapters: Sequence[AdapterRecord]) -> Ok | Pending:
    """What computes the tokens from the last one on."""
    if len(adapters) > MAX_ADAPTERS:
        raise BadRequest(f"a context has at most {MAX_ADAPTERS} adapters at once, not {len(adapters)}")
    for use in adapters:
        if not (math.isfinite(use.weight) and abs(use.weight) <= MAX_WEIGHT):
            raise BadRequest(
                f"an adapter's weight is {use.weight}: it must be a number up to {MAX_WEIGHT:g} either way"
            )
    context.set_adapters(
        [AdapterUse(checks.text(use.adapter, "an adapter's name", 300), use.weight) for use in adapters]
    )
    return _paced(fiber, context, Ok())


def pin(fiber: Fiber, context: Context, name: str, ttl: int) -> Completion:
    """Keep its KV in memory for `ttl` nanoseconds."""
    seconds = ttl / 1e9
    if not 0 < seconds <= MAX_PIN_SECONDS:
        raise BadRequest(f"a pin lasts for up to {MAX_PIN_SECONDS:g} seconds, not {seconds:g}")
    return context.pin(_pin_key(process_of(fiber), checks.name(name)), seconds)


def unpin(fiber: Fiber, handle: ModelHandle, name: str) -> Ok:
    """Let go what a name holds."""
    process = process_of(fiber)
    session = process.facilities.engines.session(process, handle.model.name)
    session.submit(Unpin(process.account, _pin_key(process, checks.name(name))))
    return Ok()


def prefetch(fiber: Fiber, handle: ModelHandle, name: str) -> Pending:
    """Start to compute a snapshot's KV."""
    return snapshots.prefetch(fiber, handle.model, checks.name(name))


def _pin_key(process: Process, name: str) -> str:
    """Pins are an account's, which users may share; names are a user's."""
    owner = msgspec.msgpack.encode((process.scope.tenant, process.scope.user, name))
    return hashlib.blake2b(owner, digest_size=16).hexdigest()


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
    "[method]context.drop-tokens": drop_tokens,
    "[method]context.reserve": reserve,
    "[method]context.commit": method(Context.commit),
    "[method]context.release": release,
    "[method]context.pages": pages,
    "[method]context.pin": pin,
    "[static]context.unpin": unpin,
    "[static]context.prefetch": prefetch,
    "[method]context.set-adapters": set_adapters,
    "[method]context.model": reading(Context, lambda context: ModelHandle(context.session.model)),
    "[method]context.export": transfers.export,
    "[static]context.import": transfers.import_context,
    "[method]pending-export.id": waitable_id,
    "[method]pending-export.get": method(PendingExport.get),
    "[method]context.tokens": reading(Context, lambda context: context.tokens),
    "[method]context.length": reading(Context, lambda context: len(context.tokens)),
}
