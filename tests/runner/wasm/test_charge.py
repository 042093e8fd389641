"""Processor time of fibers: short slices pay by the clock, long ones settle what that was over or under."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.fiber import Fiber


class Clocks:
    """Time that passes when told: the machine may be busy elsewhere meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.used = 10.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "thread_time", lambda: self.used)

    def run(self, seconds: float, used: float) -> None:
        self.now += seconds
        self.used += used


class Turn:
    """A driver, and fibers that use up time when they run."""

    def __init__(self, clocks: Clocks) -> None:
        host: Any = SimpleNamespace(
            current=None, engine=SimpleNamespace(start_clock=lambda: None, stop_clock=lambda: None)
        )
        self.driver = Driver(host)
        self._clocks = clocks

    def fiber(self, seconds: float, used: float) -> Any:
        made: Any = SimpleNamespace(
            finished=False,
            fault=None,
            doomed=None,
            cpu_seconds=0.0,
            last_seconds=0.0,
            data=None,
            rests_until=0.0,
        )
        made.limits = SimpleNamespace(cpu_seconds=0.0)
        made.parked = SimpleNamespace(done=False)
        made.run_slice = lambda: self._clocks.run(seconds, used)
        self.driver.make_ready(cast(Fiber, made))
        return made


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    return Turn(Clocks(monkeypatch))


def test_a_short_slice_pays_by_the_clock(turn: Turn):
    fiber = turn.fiber(0.0001, 0.00009)

    turn.driver.run_ready()

    assert fiber.cpu_seconds == pytest.approx(0.0001)


def test_a_slice_that_was_interrupted_pays_for_processor_time_only(turn: Turn):
    fiber = turn.fiber(0.2, 0.003)

    turn.driver.run_ready()

    assert fiber.cpu_seconds == pytest.approx(0.003)


def test_a_long_slice_settles_what_short_ones_paid_too_much(turn: Turn):
    short = [turn.fiber(0.0001, 0.00005) for _ in range(10)]
    long = turn.fiber(0.002, 0.002)

    turn.driver.run_ready()

    assert sum(fiber.cpu_seconds for fiber in short) + long.cpu_seconds == pytest.approx(0.0025)


def test_nobody_is_paid_back(turn: Turn):
    for _ in range(30):
        turn.fiber(0.0001, 0.0)
    long = turn.fiber(0.001, 0.0005)

    turn.driver.run_ready()

    assert long.cpu_seconds == 0.0
