"""Fibers of real components: they park, yield, trap and die without hurting each other or leaving anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files

import pytest
from lab import Lab
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.fiber import Fiber, Limits, Outcome, State
from pie_runner.wasm.host import Host
from pie_runner.wasm.hostcall import Ok, Pending
from pie_runner.wasm.program import Program
from pie_runner.wasm.types import read_imports
from pie_wire.errors import (
    BadRequest,
    InternalError,
    LimitExceeded,
    PieError,
    ProgramError,
    Terminated,
    Trapped,
)
from wasmtime.component import Component

KILLED = Terminated("the owner asked")


class Thing:
    def __init__(self, open_things: set[Thing]) -> None:
        self.open = open_things
        self.open.add(self)

    def close(self) -> None:
        self.open.remove(self)


class Tiny:
    """The self-test's component with a host of this test."""

    def __init__(self, engine: WasmEngine) -> None:
        self.waiting: list[Pending] = []
        self.abandoned = 0
        self.things: set[Thing] = set()
        self.touch: object = 0
        self.outcomes: dict[Fiber, Outcome] = {}
        table = {
            ("host", "give"): lambda _: None,
            ("host", "take"): lambda _, *value: None,
            ("host", "wait"): self.wait,
            ("host", "[constructor]thing"): lambda _: Thing(self.things),
            ("host", "[method]thing.touch"): self._touch,
        }
        self.host = Host(engine, table, package="pie:selftest")
        self.driver = Driver(self.host)
        component = Component(engine.raw, files("pie_runner.wasm").joinpath("selftest.wat").read_text())
        offered = {key: str(types) for key, types in read_imports(component, engine.raw).functions.items()}
        self.program = Program(engine, component, offered)

    def wait(self, fiber: Fiber) -> Pending:
        pending = Pending(fiber, self.forget)
        self.waiting.append(pending)
        return pending

    def forget(self) -> None:
        self.abandoned += 1

    def _touch(self, fiber: Fiber, thing: Thing) -> object:
        if isinstance(self.touch, Exception):
            raise self.touch
        return self.touch(fiber) if callable(self.touch) else self.touch

    def spawn(self, text: str, limits: Limits | None = None) -> Fiber:
        return self.driver.spawn(
            self.program, text, data=None, on_exit=lambda fiber, o: self.outcomes.update({fiber: o}), limits=limits
        )

    def run(self, text: str, limits: Limits | None = None) -> Outcome:
        fiber = self.spawn(text, limits)
        while not fiber.finished:
            self.driver.run_ready()
        return self.outcomes[fiber]


@pytest.fixture
def tiny(engine: WasmEngine):
    made = Tiny(engine)
    yield made
    made.driver.close(KILLED)
    assert not made.things
    made.host.close()


def test_a_thousand_blocked_at_once(tiny: Tiny):
    fibers = [tiny.spawn("wait") for _ in range(1000)]
    while tiny.driver.has_work:
        tiny.driver.run_ready()
    assert len(tiny.waiting) == 1000
    assert {fiber.state for fiber in fibers} == {State.PARKED}

    for pending in tiny.waiting:
        pending.resolve(7)
    while tiny.driver.has_work:
        tiny.driver.run_ready()

    assert [tiny.outcomes[fiber] for fiber in fibers] == ["wait"] * 1000


def test_a_wrong_answer_traps_only_its_own_fiber(tiny: Tiny):
    first, second = tiny.spawn("wait"), tiny.spawn("wait")
    while tiny.driver.run_ready():
        pass
    tiny.waiting[0].resolve(6)
    tiny.waiting[1].resolve(7)

    while tiny.driver.run_ready():
        pass

    assert isinstance(tiny.outcomes[first], Trapped)
    assert "unreachable" in str(tiny.outcomes[first])
    assert "wasm backtrace" in str(tiny.outcomes[first])
    assert tiny.outcomes[second] == "wait"


def test_an_endless_loop_stops_nobody_else(tiny: Tiny):
    hog = tiny.spawn("loop")
    tiny.driver.run_ready()
    gaps: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        other = tiny.spawn("noop")
        while not other.finished:
            tiny.driver.run_ready()
        gaps.append(time.perf_counter() - began)

    assert all(outcome == "noop" for outcome in tiny.outcomes.values())
    assert not hog.finished
    assert sorted(gaps)[10] < 0.05, "a ready fiber waits for a slice of the loop at most"
    tiny.driver.kill(hog, KILLED)
    assert tiny.outcomes[hog] is KILLED


def test_loops_share_the_thread(tiny: Tiny):
    hogs = [tiny.spawn("loop") for _ in range(3)]
    began = time.perf_counter()
    while time.perf_counter() - began < 0.1:
        tiny.driver.run_ready()

    assert {hog.state for hog in hogs} <= {State.BACKGROUND, State.READY}


@pytest.mark.parametrize("when", ["new", "parked", "looping", "answered", "finished"])
def test_kill_in_every_state_frees_everything(tiny: Tiny, when: str):
    fiber = tiny.spawn("loop" if when == "looping" else "wait")
    if when != "new":
        tiny.driver.run_ready()
    if when in ("answered", "finished"):
        tiny.waiting[0].resolve(7)
    if when == "finished":
        tiny.driver.run_ready()

    tiny.driver.kill(fiber, KILLED)
    tiny.driver.kill(fiber, Terminated("again"))

    assert fiber.finished
    assert tiny.outcomes[fiber] == ("wait" if when == "finished" else KILLED)
    assert tiny.abandoned == (1 if when == "parked" else 0)
    assert not tiny.driver.fibers
    tiny.driver.run_ready()


def test_killed_by_the_host_function_it_is_calling(tiny: Tiny):
    def touch(fiber: Fiber) -> Pending:
        tiny.driver.kill(fiber, KILLED)
        return Pending(fiber)

    tiny.touch = touch

    assert tiny.run("thing") is KILLED
    assert not tiny.things


@pytest.mark.parametrize("wrap", [Ok, lambda thing: thing])
def test_a_resource_that_came_as_the_fiber_was_killed_is_closed(tiny: Tiny, wrap: Callable[[object], object]):
    fiber = tiny.spawn("wait")
    tiny.driver.run_ready()

    tiny.waiting[0].resolve(wrap(Thing(tiny.things)))
    tiny.driver.kill(fiber, KILLED)

    assert not tiny.things


def test_a_bug_in_one_fibers_end_is_not_the_end_of_others(tiny: Tiny):
    ends: list[Outcome] = []

    def on_exit(_: Fiber, outcome: Outcome) -> None:
        ends.append(outcome)
        if len(ends) == 1:
            raise RuntimeError("a bug")

    tiny.driver.spawn(tiny.program, "thing", data=None, on_exit=on_exit)
    other = tiny.spawn("wait")
    while tiny.driver.has_work:
        tiny.driver.run_ready()
    tiny.waiting[0].resolve(7)
    tiny.driver.run_ready()

    assert [type(end) for end in ends[1:]] == [InternalError]
    assert tiny.outcomes[other] == "wait"


def test_a_wait_that_cannot_be_forgotten_frees_the_fiber_nonetheless(tiny: Tiny):
    fiber = tiny.spawn("wait")
    tiny.driver.run_ready()
    tiny.waiting[0].on_abandon = lambda: 1 / 0

    tiny.driver.kill(fiber, KILLED)

    assert isinstance(tiny.outcomes[fiber], InternalError)
    assert not tiny.driver.fibers
    assert fiber.finished


def test_late_answers_are_ignored(tiny: Tiny):
    fiber = tiny.spawn("wait")
    tiny.driver.run_ready()
    tiny.driver.kill(fiber, KILLED)

    tiny.waiting[0].resolve(7)
    tiny.waiting[0].fail(BadRequest("too late"))

    assert not tiny.driver.has_work


def test_an_answer_that_comes_at_once_does_not_park(tiny: Tiny):
    def touch(fiber: Fiber) -> Pending:
        pending = Pending(fiber)
        pending.resolve(0)
        return pending

    tiny.touch = touch

    assert tiny.run("thing") == "thing"


def test_a_trap_closes_what_the_guest_had_open(tiny: Tiny):
    tiny.touch = ValueError("broken")

    outcome = tiny.run("thing")

    assert isinstance(outcome, InternalError)
    assert "pie:selftest/host#[method]thing.touch: ValueError: broken" in str(outcome)
    assert not tiny.things


def test_a_typed_error_where_the_guest_cannot_take_one_traps_with_its_words(tiny: Tiny):
    tiny.touch = BadRequest("say it differently")

    outcome = tiny.run("thing")

    assert isinstance(outcome, Trapped)
    assert "say it differently" in str(outcome)


def test_the_error_a_program_returns(tiny: Tiny):
    outcome = tiny.run("fail")

    assert type(outcome) is ProgramError
    assert str(outcome) == "fail"


def test_deep_recursion_traps_quickly(tiny: Tiny):
    began = time.perf_counter()

    outcome = tiny.run("recurse")

    assert isinstance(outcome, LimitExceeded)
    assert "stack limit" in str(outcome)
    assert time.perf_counter() - began < 1.0


def test_memory_is_limited(tiny: Tiny):
    outcome = tiny.run("grow", Limits(memory_bytes=4 << 20))

    assert isinstance(outcome, Trapped)


def test_processor_time_is_limited_and_an_endless_loop_ends(tiny: Tiny):
    began = time.thread_time()

    outcome = tiny.run("loop", Limits(cpu_seconds=0.1))

    assert isinstance(outcome, LimitExceeded)
    assert "cpu_seconds = 0.1" in str(outcome)
    assert 0.1 <= time.thread_time() - began < 1.0


def test_too_little_memory_to_begin_with(tiny: Tiny):
    outcome = tiny.run("noop", Limits(memory_bytes=1 << 16))

    assert isinstance(outcome, PieError)
    assert "memory" in str(outcome)


def test_launches_leave_nothing(tiny: Tiny):
    for round_ in range(3):
        for i in range(300):
            fiber = tiny.spawn("wait" if i % 3 else "thing")
            tiny.driver.run_ready()
            if i % 5 == 0:
                tiny.driver.kill(fiber, KILLED)
        for pending in tiny.waiting:
            pending.resolve(7)
        while tiny.driver.has_work:
            tiny.driver.run_ready()
        assert not tiny.driver.fibers
        if round_ == 0:
            before = resident_kib()
    assert resident_kib() - before < 20 * 1024


def resident_kib() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4


def test_blocked_python_programs(lab: Lab, python: Program):
    source = "from inferlet import session\nasync def main(): return await session.receive()"
    launches = [lab.start(python, source) for _ in range(40)]
    lab.drive(lambda: not lab.driver.has_work)
    assert all(launch.fiber.state is State.PARKED for launch in launches)

    for launch in launches:
        lab.driver.kill(launch.fiber, KILLED)

    assert lab.fake.open_resources == 0
