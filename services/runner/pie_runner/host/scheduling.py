"""Memory that is shared: how short it is, what it is worth, and who gives way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pie_wire.messages.engine import GetStanding

from pie_runner.contexts import Context
from pie_runner.host.asked import asked
from pie_runner.host.methods import method
from pie_runner.host.model import ModelHandle
from pie_runner.process import process_of
from pie_runner.waitables import Completion
from pie_runner.wasm.hostcall import HostFunction, Ok, Pending

if TYPE_CHECKING:
    from pie_runner.engine_session import Session
    from pie_runner.wasm.fiber import Fiber


class Pressure(NamedTuple):
    """The WIT's `pressure`."""

    level: str
    demand: float
    price: float


class Receipt(NamedTuple):
    """The WIT's `receipt`."""

    restored: bool
    reason: str
    how: str
    tokens: int
    pages: int
    seconds: float


def current_pressure(fiber: Fiber, handle: ModelHandle) -> Pressure:
    """As it was last told."""
    now = _home(fiber, handle).pressure.now
    return Pressure(now.level, now.demand, now.price)


def when_pressure(fiber: Fiber, handle: ModelHandle, level: str, rising: bool) -> Completion:
    """Completes when the level is that, or beyond."""
    return _home(fiber, handle).pressure.wait(process_of(fiber).waitables, level, rising=rising)


def latency(fiber: Fiber, handle: ModelHandle) -> Pending:
    """Seconds that the engine's steps take."""
    return asked(fiber, _home(fiber, handle), GetStanding([]), lambda answer: Ok(answer.step_seconds))


def rent(fiber: Fiber, context: Context) -> Pending:
    """Price times pages."""
    context.check_alive()
    return asked(fiber, context.session, GetStanding([context.id]), lambda answer: Ok(answer.rents[0]))


def balance(fiber: Fiber, context: Context) -> Pending:
    """Pages left of the account's share."""
    context.check_alive()
    return asked(fiber, context.session, GetStanding([context.id]), lambda answer: Ok(answer.balances[0]))


def receipts(_fiber: Fiber, context: Context) -> list[Receipt]:
    """What became of the pages since the last call."""
    return [
        Receipt(r.kind == "restored", r.reason, r.how, r.tokens, r.pages, r.seconds) for r in context.take_receipts()
    ]


def _home(fiber: Fiber, handle: ModelHandle) -> Session:
    process = process_of(fiber)
    return process.facilities.engines.session(process, handle.model.name)


FUNCTIONS: Mapping[str, HostFunction] = {
    "current-pressure": current_pressure,
    "when-pressure": when_pressure,
    "latency": latency,
    "bid": method(Context.bid),
    "idle": method(Context.idle),
    "suspend": method(Context.suspend),
    "rent": rent,
    "balance": balance,
    "receipts": receipts,
}
