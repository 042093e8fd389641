"""Who runs when slices are too long: those with long ones rest, wherever they are in their lives."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from pie_runner.wasm import driver as module
from pie_runner.wasm.driver import ALONE_SECONDS, BUSY_SECONDS, Driver
from pie_runner.wasm.fiber import BACKGROUND, RESTING, Fiber
from pie_runner.wasm.rests import FELT_REST, FREE
from pie_wire.errors import Terminated

LONG = 0.1
SHORT = 0.001
SPARED = int(FREE / FELT_REST)
"""Slices that a tenant need not pay for."""


class Fake:
    """A fiber that uses up so much in each slice, and in its end."""

    def __init__(self, lab: Lab, data: tuple[str, str], seconds: float, slices: int, at_end: float) -> None:
        self._lab = lab
        self.data = data
        self.seconds = seconds
        self.slices = slices
        self.at_end = at_end
        self.ran = 0
        self.finished = False
        self.state: object = None
        self.fault = self.doomed = self.parked = None
        self.cpu_seconds = self.last_seconds = self.rests_until = 0.0
        self.limits = SimpleNamespace(cpu_seconds=0.0)

    def run_slice(self) -> str | None:
        self._lab.now += self.seconds
        self.ran += 1
        return "done" if self.ran == self.slices else None

    def release(self) -> None:
        self.finished = True
        self._lab.now += self.at_end

    def on_exit(self, *_: object) -> None:
        pass


class Lab:
    """A driver whose time is this object's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "thread_time", lambda: self.now)
        self._next: Fake
        monkeypatch.setattr(module, "Fiber", lambda *_: self._next)
        host: Any = SimpleNamespace(
            current=None, engine=SimpleNamespace(start_clock=lambda: None, stop_clock=lambda: None)
        )
        self.driver = Driver(host, payer=lambda data: cast("tuple[str, str]", data))

    def spawn(
        self, seconds: float, slices: int = 0, program: str = "a", tenant: str = "t", *, at_end: float = 0.0
    ) -> Fake:
        data = (tenant, program)
        self._next = Fake(self, data, seconds, slices, at_end)
        self.driver.spawn(cast(Any, None), "", data=data, on_exit=lambda *_: None)
        return self._next

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.driver.run_ready()
            self.now += 0.001


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


def test_a_hog_beside_others_has_some_long_slices_and_then_one_in_a_while(lab: Lab):
    hog, other = lab.spawn(LONG), lab.spawn(SHORT, program="other")
    lab.run(2.0)
    assert hog.ran == SPARED + 1
    assert hog.state is RESTING

    lab.run(3 * FELT_REST)

    assert hog.ran - SPARED in (3, 4)
    assert other.ran > 1000


def test_the_operator_is_told_who_rests(lab: Lab):
    lab.spawn(SHORT, program="other")
    lab.spawn(LONG)
    with structlog.testing.capture_logs() as logs:
        lab.run(2.0)

    assert [(line["tenant"], line["program"], line["held_ms"]) for line in logs] == [("t", "a", 100)]
    assert logs[0]["seconds"] == FELT_REST


def test_it_does_not_matter_how_many_hogs_there_are(lab: Lab):
    hogs = [lab.spawn(LONG, program=str(number)) for number in range(5)]
    lab.spawn(SHORT, program="other")
    lab.run(2.0)
    assert sum(hog.ran for hog in hogs) == SPARED + 5

    lab.run(4 * FELT_REST)

    assert sum(hog.ran for hog in hogs) <= SPARED + 5 + 5


def test_who_is_alone_never_rests(lab: Lab):
    hog = lab.spawn(LONG)

    lab.run(100.0)

    assert hog.ran > 500


def test_after_it_was_alone_it_does_not_rest_for_ever(lab: Lab):
    hog = lab.spawn(LONG)
    lab.run(100.0)
    lab.spawn(SHORT, program="other")
    lab.run(1.0)
    before = hog.ran

    lab.run(2 * FELT_REST + ALONE_SECONDS)

    assert before < hog.ran <= before + 2


def test_a_program_that_is_launched_again_after_each_long_slice_waits_to_be_started(lab: Lab):
    lab.spawn(SHORT, program="other")
    launched = [lab.spawn(LONG, slices=1)]
    for _ in range(int(3 * FELT_REST)):
        if launched[-1].finished:
            launched.append(lab.spawn(LONG, slices=1))
        lab.run(1.0)

    assert len(launched) <= SPARED + 4


def test_those_who_wait_to_be_started_start_one_by_one(lab: Lab):
    lab.spawn(SHORT, program="other")
    hog = lab.spawn(LONG)
    lab.run(1.0)
    lab.driver.kill(cast(Fiber, hog), Terminated("enough"))
    waiting = [lab.spawn(LONG, slices=1) for _ in range(10)]

    lab.run(2.5 * FELT_REST)

    assert sum(fiber.ran for fiber in waiting) == 2


def test_who_waited_to_be_started_and_is_no_hog_counts_as_one_of_the_others(lab: Lab):
    lab.spawn(SHORT, slices=2000, program="other")
    hog = lab.spawn(LONG)
    lab.run(1.0)
    twin = lab.spawn(SHORT)
    lab.run(1.0)
    assert not twin.ran
    lab.run(FELT_REST)
    assert twin.ran > 100
    before = hog.ran

    lab.run(2 * FELT_REST)

    assert hog.ran <= before + 3


def test_other_programs_launched_one_after_the_other_wait_too_while_their_tenant_pays(lab: Lab):
    lab.spawn(SHORT, program="other", tenant="another")
    launched: list[Fake] = []
    for number in range(100):
        launched.append(lab.spawn(LONG, slices=1, program=str(number)))
        lab.run(0.9)

    ran = sum(fiber.ran for fiber in launched)
    assert SPARED + 8 <= ran <= SPARED + 1 + 100 / FELT_REST


def test_what_there_is_to_send_leaves_before_those_who_compute(lab: Lab):
    computing = lab.spawn(BUSY_SECONDS * 2)
    lab.run(0.1)
    assert computing.state is BACKGROUND
    assert lab.driver.has_work
    assert not lab.driver.has_ready
    ran: list[int] = []

    lab.driver.run_ready(before_background=lambda: ran.append(computing.ran))
    before = computing.ran

    assert ran[0] < before


def test_who_computes_does_not_pay_for_what_is_sent_before(lab: Lab):
    lab.spawn(SHORT, program="other")
    computing = lab.spawn(BUSY_SECONDS * 2)
    lab.run(0.1)

    def send() -> None:
        lab.now += LONG

    for _ in range(SPARED + 2):
        lab.driver.run_ready(before_background=send)

    assert computing.state is BACKGROUND
    assert not lab.driver.pays(computing.data)


def test_a_program_that_is_known_starts_at_once_while_its_tenant_pays(lab: Lab):
    lab.spawn(SHORT, program="other")
    lab.spawn(LONG)
    lab.run(2.0)

    known, new = lab.spawn(SHORT, slices=1, program="other"), lab.spawn(SHORT, slices=1, program="new")
    lab.run(0.1)

    assert known.finished
    assert not new.ran
    lab.run(FELT_REST)
    assert new.finished, "whatever those do that rested"


def test_another_tenant_is_not_touched(lab: Lab):
    lab.spawn(LONG)
    lab.run(20.0)
    victim = lab.spawn(LONG, slices=3, tenant="another")

    lab.run(1.0)

    assert victim.finished


def test_what_takes_long_to_free_is_paid_for_by_its_program_and_not_by_who_runs_next(lab: Lab):
    other = lab.spawn(SHORT, program="other")
    for _ in range(SPARED + 1):
        lab.spawn(SHORT, slices=1, at_end=LONG)
        lab.run(0.01)
    again = lab.spawn(SHORT, slices=1)

    lab.run(1.0)

    assert not again.ran
    assert other.rests_until == 0.0
    assert other.ran > 100
    assert other.cpu_seconds == pytest.approx(SHORT * other.ran)


def test_the_end_of_one_that_rests(lab: Lab):
    lab.spawn(SHORT, program="other")
    hog = lab.spawn(LONG)
    lab.run(1.0)

    lab.driver.kill(cast(Fiber, hog), Terminated("enough"))

    lab.run(10.0)
    assert hog.finished
    assert hog.ran == SPARED + 1
