"""Memory is shared: how short it is, and how to be kind with all contexts of the program at once.

    with scheduling.idle():
        answer = await slow_tool()

The engine knows contexts, not programs: `idle` and `bid` here are those of each context that the program has now.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from wit_world.imports import scheduling as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap
from inferlet.model import Model
from inferlet.pages import enter_idle, leave_idle, living


@dataclass(frozen=True)
class Pressure:
    """`level`: low, medium or high. `demand`: pages owned and waited for, as a part of the pool. `price`: the bid that
    no longer sufficed to keep pages."""

    level: str
    demand: float
    price: float


def pressure(model: Model | None = None) -> Pressure:
    """At the program's engine, as it was last told."""
    with host_errors():
        now = raw.current_pressure((model or Model.load()).handle)
    return Pressure(now.level.name.lower(), now.demand, now.price)


async def when_pressure(level: str, *, rising: bool = False, model: Model | None = None) -> None:
    """Wait until pressure is at most this level or, with `rising`, at least this."""
    try:
        wanted = raw.Level[level.upper()]
    except KeyError:
        raise ValueError(f"level is low, medium or high, not {level!r}") from None
    with host_errors():
        done = raw.when_pressure((model or Model.load()).handle, wanted, rising)
    with done:
        unwrap(await loop.result(done))


def latency(model: Model | None = None) -> float:
    """Seconds that the engine's last steps took, a mean; 0 before the first."""
    with host_errors():
        return raw.latency((model or Model.load()).handle)


@contextmanager
def idle() -> Generator[None]:
    """All contexts that the program has now are idle inside of the block: for waiting on something slow."""
    contexts = living()
    enter_idle(contexts)
    try:
        yield
    finally:
        leave_idle(contexts)


def bid(value: float) -> None:
    """All contexts that the program has now bid this much. Forks inherit the bid of what they are made of."""
    for context in living():
        context.bid(value)
