"""Time and sleep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pie_runner.process import process_of
from pie_runner.waitables import Completion
from pie_runner.wasm.hostcall import HostFunction

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

SECOND = 1_000_000_000
MAX_SLEEP = 10 * 365 * 86_400 * SECOND
"""Longer sleeps are cut to this: the same to any program, and safe in floating point."""


def monotonic_now(fiber: Fiber) -> int:
    """Nanoseconds."""
    return int(process_of(fiber).facilities.hub.clock() * SECOND)


def wall_now(fiber: Fiber) -> int:
    """Nanoseconds since 1970."""
    return int(process_of(fiber).facilities.wall() * SECOND)


def sleep(fiber: Fiber, duration: int) -> Completion:
    """Completes after at least this many nanoseconds."""
    process = process_of(fiber)
    facilities = process.facilities

    # First the waitable, which may be refused: no timer may outlive that.
    done = Completion(process.waitables)
    done.on_close(facilities.timers.at(facilities.hub.clock() + min(duration, MAX_SLEEP) / SECOND, done.complete))
    return done


FUNCTIONS: Mapping[str, HostFunction] = {"monotonic-now": monotonic_now, "wall-now": wall_now, "sleep": sleep}
