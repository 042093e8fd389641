"""What functions of the world cost the loop when they are given as much as they take, and what becomes of programs that
give them more."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
import runner_world
from attacks import Attack
from costs import BEYOND, CASES, program
from pie_runner.wasm.fiber import Fiber, Limits, Outcome
from pie_wire.capabilities import Capabilities, Grants
from runner_world import World

REPEATS = 2
USUAL = 0.040
"""Seconds that a call may take here, where other processes run too; alone it is about half of that."""
LARGE = {
    "session/send-bytes": 0.25,
    "session/send-file": 0.5,
    "filesystem/write": 0.2,
    "filesystem/read": 0.2,
    "context/context.import": 0.3,
    "log/stdout": 0.15,
    "log/write": 0.15,
    "model/tokenizer.encode": 0.1,
    "model/tokenizer.decode": 0.1,
    "context/context.append": 0.1,
    "logits/logits.allow": 0.15,
    "logits/logits.penalize": 0.15,
    "forward/execute 64 rows": 0.15,
}
"""Calls that pass megabytes cannot be cut: those who make them again and again rest (`Rests`)."""


FILES = Capabilities(*[Grants(filesystem=["scratch"])] * 2)


class Watch:
    """Processor time of slices behind a program's first rest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rests = 0
        self.longest = 0.0
        run_slice = Fiber.run_slice

        def watched(fiber: Fiber) -> Outcome | None:
            began = time.thread_time()
            try:
                return run_slice(fiber)
            finally:
                spent = time.thread_time() - began
                if self.rests:
                    self.longest = max(self.longest, spent)
                if fiber.parked is not None and fiber.parked.function._key[1] == "wait-any":
                    self.rests += 1

        monkeypatch.setattr(Fiber, "run_slice", watched)

    def start(self) -> None:
        self.rests, self.longest = 0, 0.0


@pytest.fixture
def bare_world(smollm2_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
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
    attack.world.host._limits = Limits(memory_bytes=1 << 30, cpu_seconds=600.0)
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


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_no_call_holds_up_the_loop(roomy: Attack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    watch = Watch(monkeypatch)
    world = roomy.world
    found: dict[str, float] = {}
    for name, case in CASES.items():
        artifact, times = program(case), list[float]()
        for _ in range(REPEATS):
            watch.start()
            pid = roomy.launch(artifact, capabilities=FILES)
            world.run(lambda pid=pid: world.ended(pid), limit=600.0)
            assert roomy.end(pid) == "return", (name, world.log(pid)[-1])
            times.append(watch.longest)
        found[name] = min(times)
    with capsys.disabled():
        slowest = sorted(found, key=lambda name: -found[name])
        sys.stdout.write("".join(f"\n{found[name] * 1000:8.1f} ms  {name}" for name in slowest[:20]))
        sys.stdout.write("\n")
    assert {name for name in found if found[name] > LARGE.get(name, USUAL)} == set()
