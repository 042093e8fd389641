"""What functions of the world cost the loop when they are given as much as they take, and what becomes of programs that
give them more."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from threading import Thread

import pytest
import runner_world
from attacks import RIGHTS, Attack
from costs import BEYOND, CASES, name_of, program
from message_store import Store
from panics import functions, panicking
from pie_runner.wasm.fiber import Fiber, Outcome
from pie_runner.wasm.world import offered_world
from runner_world import World

REPEATS = 2
USUAL = 0.040
"""Seconds that a call may take here, where other processes run too; alone it is about half of that."""
LARGE = {
    "session/send-bytes": 0.25,
    "session/send-file": 0.5,
    "filesystem/write": 0.2,
    "filesystem/append": 0.2,
    "http/upload.write": 0.5,
    "filesystem/read": 0.2,
    "context/context.import": 0.3,
    "log/stdout": 0.15,
    "log/write": 0.15,
    "log/stderr": 0.15,
    "model/tokenizer.encode": 0.1,
    "model/tokenizer.decode": 0.1,
    "context/context.append": 0.1,
    "logits/logits.allow": 0.15,
    "logits/logits.penalize": 0.15,
    "forward/execute 64 rows": 0.15,
}
"""Calls that pass megabytes cannot be cut: those who make them again and again rest (`Rests`)."""

QUICK = ("context/context.append full", "generation/run.open stops", "forward/verify")
"""Looked at whenever tests run."""
SLOW = ("chat/conversation.fork",)
"""Looked at in the slower tier: 11 s."""


class Watch:
    """Processor time of slices behind a program's first rest, and how long worker threads then kept the loop from going
    on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rests = 0
        self.longest = 0.0
        run_slice = Fiber.run_slice

        def watched(fiber: Fiber) -> Outcome | None:
            began = time.thread_time()
            try:
                return run_slice(fiber)
            finally:
                self._saw(time.thread_time() - began)
                if fiber.parked is not None and fiber.parked.function._key[1] == "wait-any":
                    self.rests += 1

        monkeypatch.setattr(Fiber, "run_slice", watched)

        def offload(world: World, work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
            world.offloads.append(lambda: self.run_aside(work, then))

        monkeypatch.setattr(World, "_offload", offload)

    def start(self) -> None:
        self.rests, self.longest = 0, 0.0

    def _saw(self, spent: float) -> None:
        if self.rests:
            self.longest = max(self.longest, spent)

    def run_aside(self, work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
        """On a thread, while the loop runs on."""
        result: list[tuple[object, Exception | None]] = []
        thread = Thread(target=lambda: result.append(_result_of(work)))
        last = time.perf_counter()
        thread.start()
        while thread.is_alive():
            now = time.perf_counter()
            self._saw(now - last)
            last = now
            time.sleep(0.0002)
        then(*result[0])


def _result_of(work: Callable[[], object]) -> tuple[object, Exception | None]:
    try:
        return work(), None
    except Exception as exc:  # noqa: BLE001 - it is the answer
        return None, exc


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def bare_world(smollm2_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, watch: Watch) -> Iterator[World]:
    """With the tokenizer, template and sizes of a real model."""
    monkeypatch.setattr(runner_world, "VOCAB", 49152)
    monkeypatch.setattr(runner_world, "MAX_CONTEXT", 8192)
    world = World(smollm2_files)
    world.chunk = 1 << 20
    yield world
    world.aside.close()


@pytest.fixture
def roomy(attack: Attack) -> Attack:
    """Attacks with all the memory and time that they want."""
    attack.world.allow(memory=1 << 30, cpu_seconds=600.0)
    return attack


@pytest.mark.slow
@pytest.mark.parametrize("what", BEYOND)
def test_who_passes_too_much_in_one_call_ends(roomy: Attack, what: str):
    """An error would let it do the same again."""
    pid = roomy.launch(program(BEYOND[what]))
    roomy.world.run(lambda: roomy.world.ended(pid), limit=600.0)

    error = roomy.world.log(pid)[-1].error
    assert error is not None
    assert (error.code, "too much in one host call" in error.message) == ("limit_exceeded", True)


def needs_a_case(types: str) -> bool:
    """Whether a function takes what may be large."""
    return "string" in types.partition(" -> ")[0] or "list<" in types.partition(" -> ")[0]


def test_every_function_that_takes_texts_or_lists_has_a_case():
    covered = {case.partition(" ")[0] for case in CASES}

    assert {name_of(*key) for key, types in offered_world().items() if needs_a_case(types)} - covered == set()


def cost(attack: Attack, watch: Watch, artifact: bytes, text: str = "null", *, real_time: bool = False) -> float:
    """Seconds for which a program's call keeps the loop."""
    world, times = attack.world, list[float]()
    for _ in range(REPEATS):
        watch.start()
        pid = attack.launch(artifact, text, capabilities=RIGHTS, mcp=["house"])
        if real_time:
            world.run_in_real_time(lambda pid=pid: world.ended(pid))
        else:
            world.run(lambda pid=pid: world.ended(pid), limit=600.0)
        assert attack.end(pid) == "return", world.log(pid)[-1]
        times.append(watch.longest)
    return min(times)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.soak)
        for name in CASES
    ],
)
def test_no_call_holds_up_the_loop(roomy: Attack, store: Store, watch: Watch, name: str):
    took = cost(roomy, watch, program(CASES[name]))

    sys.stdout.write(f"{took * 1000:8.1f} ms  {name}\n")
    assert took <= LARGE.get(name, USUAL)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_no_function_is_slow_by_itself(roomy: Attack, store: Store, watch: Watch, answering: int):
    """All of the world, each with as little as it takes."""
    artifact, names = panicking(answering, rests=True), functions(answered=True)
    found = {name: cost(roomy, watch, artifact, f'"0 {number}"', real_time=True) for number, name in enumerate(names)}

    slowest = sorted(found, key=lambda name: -found[name])[:10]
    sys.stdout.write("".join(f"{found[name] * 1000:8.1f} ms  {name}\n" for name in slowest))
    assert {name for name in found if found[name] > USUAL} == set()
