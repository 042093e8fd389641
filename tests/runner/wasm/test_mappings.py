"""Programs in their thousands, and what the kernel allows one process: who finds no room is told, the others go on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pie_runner.bench import programs
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.fiber import Fiber, Outcome
from pie_runner.wasm.host import Host
from pie_runner.wasm.hostcall import Pending
from pie_runner.wasm.mappings import LEAST, MOST, PAUSE, RESERVE, Mappings, count_mappings, mappings_of_this_process
from pie_runner.wasm.program import Program
from pie_runner.wasm.world import offered_world
from pie_wire.errors import Overloaded
from structlog.testing import capture_logs
from wasmtime.component import Component

ALLOWED = 60_000


class Kernel:
    """Counts what it is told to, when `work` is called; each count some time after the one before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, there: int = 1000) -> None:
        self.there = there
        self.counts = 0
        self.asked: list[Callable[[], None]] = []
        self._now = 100.0
        monkeypatch.setattr("pie_runner.wasm.mappings.time.monotonic", lambda: self._now)

    def count(self) -> int:
        self.counts += 1
        return self.there

    def offload(self, work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
        self.asked.append(lambda: then(work(), None))

    def work(self) -> None:
        self._now += PAUSE
        asked, self.asked = self.asked, []
        for done in asked:
            done()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def take_all(mappings: Mappings) -> int:
    """How many programs there was room for."""
    for taken in range(ALLOWED):
        try:
            mappings.take()
        except Overloaded as exc:
            return taken if exc.info().retryable and "vm.max_map_count" in exc.message else -1
    pytest.fail("without end")


def test_nothing_is_counted_while_there_is_room_for_the_worst(kernel: Kernel):
    mappings = Mappings(ALLOWED, kernel.count, kernel.offload)

    for _ in range(((ALLOWED - RESERVE) // 2 - kernel.there) // MOST):
        mappings.take()
    kernel.work()

    assert kernel.counts == 1


def test_between_counts_each_program_is_taken_for_the_worst(kernel: Kernel):
    mappings = Mappings(ALLOWED, kernel.count, kernel.offload)

    assert take_all(mappings) == (ALLOWED - RESERVE - kernel.there) // MOST


def test_a_count_says_what_there_really_is(kernel: Kernel):
    mappings, started = Mappings(ALLOWED, kernel.count, kernel.offload), 0
    for _ in range(100):
        started += take_all(mappings)
        kernel.there = 1000 + started * LEAST
        kernel.work()
    assert started > (ALLOWED - RESERVE - 1000 - MOST) // LEAST - MOST
    assert kernel.there <= ALLOWED - RESERVE

    kernel.there = 1000  # all have ended
    assert take_all(mappings) == 0
    kernel.work()

    assert take_all(mappings) > 1000


def test_programs_that_start_while_it_is_counted_still_count(kernel: Kernel):
    mappings = Mappings(ALLOWED, kernel.count, kernel.offload)
    while not kernel.asked:
        mappings.take()
    kernel.there = ALLOWED // 2
    for _ in range(10):
        mappings.take()
    kernel.work()

    assert take_all(mappings) == (ALLOWED - RESERVE - ALLOWED // 2) // MOST - 11


def test_a_capacity_that_cannot_be_is_lowered_with_a_warning(kernel: Kernel):
    mappings = Mappings(65_530, kernel.count, kernel.offload)

    with capture_logs() as lines:
        assert mappings.capacity(512) == 512
        assert not lines
        assert mappings.capacity(20_000) == (65_530 - RESERVE) // LEAST

    assert [(line["log_level"], line["capacity"], line["max_map_count"]) for line in lines] == [
        ("warning", 20_000, 65_530)
    ]


def _now(_: Fiber) -> int:
    return 0


class Tinies:
    """Programs that wait until they are told."""

    def __init__(self, engine: WasmEngine, mappings: Mappings | None = None, more: str = "") -> None:
        self.waiting: list[Pending] = []
        self.host = Host(engine, {("futures", "wait-any"): self._wait, ("clocks", "monotonic-now"): _now})
        self.driver = Driver(self.host, mappings=mappings)
        text = programs.source("tiny.wat").replace("(core module $heap", f"{more} (core module $heap", 1)
        self.program = Program(engine, Component(engine.raw, text), offered_world())
        self.outcomes: list[Outcome] = []

    def _wait(self, fiber: Fiber, _: list[int]) -> Pending:
        pending = Pending(fiber)
        self.waiting.append(pending)
        return pending

    def spawn(self, count: int) -> None:
        for _ in range(count):
            self.driver.spawn(self.program, "w1", data=None, on_exit=lambda _, o: self.outcomes.append(o))
        while self.driver.has_work:
            self.driver.run_ready()

    def end(self) -> None:
        waiting, self.waiting = self.waiting, []
        for pending in waiting:
            pending.resolve([1])
        while self.driver.has_work:
            self.driver.run_ready()


@pytest.fixture
def tinies(engine: WasmEngine) -> Iterator[Callable[..., Tinies]]:
    made: list[Tinies] = []

    def make(mappings: Mappings | None = None, more: str = "") -> Tinies:
        made.append(Tinies(engine, mappings, more))
        return made[-1]

    yield make
    for each in made:
        each.driver.close(Overloaded("the test is over"))
        each.host.close()


MEMORY = """(core module $m{0} (memory 3) (data (i32.const 0) "a") (data (i32.const 131072) "b")
  (func $grow (drop (memory.grow (i32.const 1)))) (start $grow)) (core instance (instantiate $m{0}))"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux shows")
def test_programs_have_as_many_as_is_said(tinies: Callable[..., Tinies]):
    """Fewer where the kernel could join some with what others have left."""
    for memories, least, most in [(0, LEAST - 2, LEAST + 0.5), (7, LEAST, MOST)]:
        tiny = tinies(more=" ".join(MEMORY.format(number) for number in range(memories)))
        before = count_mappings()

        tiny.spawn(40)

        assert len(tiny.waiting) == 40
        assert least <= (count_mappings() - before) / 40 <= most


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux shows")
def test_who_finds_no_room_is_told_and_the_others_go_on(tinies: Callable[..., Tinies]):
    answers: list[Callable[[], None]] = []
    mappings = mappings_of_this_process(lambda work, then: answers.append(lambda: then(work(), None)))
    assert mappings is not None
    tiny = tinies(mappings)
    mappings.allowed = mappings._counted + RESERVE + 20 * MOST + MOST // 2

    tiny.spawn(30)

    assert len(tiny.waiting) == 20
    assert [type(outcome) for outcome in tiny.outcomes] == [Overloaded] * 10
    tiny.end()
    assert tiny.outcomes[10:] == ["null"] * 20
    answers.pop()()
    mappings._again_at = 0.0
    with suppress(Overloaded):  # that count may have begun before any of them: those since are still taken for the most
        mappings.check()
    while answers:
        answers.pop()()
    tiny.spawn(1)
    assert len(tiny.waiting) == 1


FULL = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, "TESTS")
from pie_runner.wasm.engine import WasmEngine
from test_mappings import Tinies
engine = WasmEngine()
tiny = Tinies(engine)
tiny.spawn(2)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (ROOM << 30),) * 2)
tiny.spawn(20)
failed = [[o.code, o.retryable, o.message] for o in tiny.outcomes]
waited = len(tiny.waiting)
tiny.end()
tiny.spawn(1)
ended = tiny.outcomes.count("null")
print(json.dumps({"failed": failed, "waited": waited, "ended": ended, "again": len(tiny.waiting)}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("room", [1, 14])
def test_a_program_for_which_the_machine_has_no_memory_is_refused_and_the_others_go_on(room: int):
    """Each reserves more than four gibibytes of addresses."""
    source = FULL.replace("TESTS", str(Path(__file__).parent)).replace("ROOM", str(room))

    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["waited"] == 2 + room // 4
    assert len(found["failed"]) == 20 - room // 4
    assert {(code, retryable) for code, retryable, _ in found["failed"]} == {("overloaded", True)}
    assert "memory" in found["failed"][0][2]
    assert (found["ended"], found["again"]) == (found["waited"], 1)
