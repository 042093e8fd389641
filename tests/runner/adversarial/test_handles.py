"""Handles of every kind of resource, dropped twice, used after their drop, of another kind or made up: the program that
does it ends with a trap, whatever it holds is freed, and the others go on."""

from __future__ import annotations

import re

import pytest
from attacks import RIGHTS, Attack
from handles import WAYS, kinds, misusing
from message_store import Store
from pie_runner.process import Process
from pie_runner.wasm.fiber import Fiber
from pie_wire.messages.runner import Deliver
from test_panics import held

BATCH = 4
BYSTANDER = b"""
from inferlet import Context, session

async def main():
    context = Context()
    context.append([1, 2, 3])
    session.send("here")
    await session.receive()
    return await context.generate(max_tokens=3).text()
"""


@pytest.fixture(scope="module")
def program(answering: int) -> bytes:
    return misusing(answering)


@pytest.mark.parametrize(
    "way",
    [way if way in ("dropped twice", "of another kind") else pytest.param(way, marks=pytest.mark.slow) for way in WAYS],
)
def test_only_that_program_ends_and_nothing_is_left(attack: Attack, store: Store, program: bytes, way: str):
    world, runner = attack.world, attack.world.runner
    bystander = attack.launch(BYSTANDER, kind="python")
    world.run(lambda: attack.said(bystander, "here"))
    before, contexts = set(world.host.driver.fibers), world.engine.contexts
    ends: dict[str, str] = {}
    processes: dict[str, Process] = {}
    fibers: set[Fiber] = set()
    for at in range(0, len(kinds()), BATCH):
        launched = dict[str, str]()
        for number in range(at, min(at + BATCH, len(kinds()))):
            text = f'"{WAYS.index(way) * len(kinds()) + number}"'
            launched[kinds()[number]] = attack.launch(program, text, capabilities=RIGHTS, mcp=["house"])

        def all_ended(launched: dict[str, str] = launched) -> bool:
            processes.update(runner.processes)
            fibers.update(world.host.driver.fibers - before)
            return all(map(world.ended, launched.values()))

        world.run_in_real_time(all_ended)
        for kind, pid in launched.items():
            texts = [event.text for event in world.log(pid) if event.kind == "stdout"]
            assert "".join(texts) == "a", f"it could not make all resources: {world.log(pid)}"
            ends[kind] = attack.end(pid)
            error = world.log(pid)[-1].error
            assert error is not None
            assert re.search("handle|resource", error.message.partition("\n")[0]), error
    del processes[bystander]

    assert ends == dict.fromkeys(kinds(), "trapped")
    assert len(processes) == len(fibers) == len(kinds())
    assert all(fiber.finished and len(fiber.resources) == 0 for fiber in fibers)
    assert all(held(each.usage) == [0] * 6 and not len(each.waitables) for each in processes.values())
    world.run(lambda: world.engine.contexts == contexts)
    world.engine.core.check_integrity()
    world.run(0.2)
    assert [len(runner.processes), runner.live, len(runner.timers), len(runner.children)] == [1, 1, 0, 0]
    assert runner.post._listening == {}
    world.deliver(Deliver(bystander, text="go on"))
    world.run(lambda: world.ended(bystander))
    assert attack.end(bystander) == "return"
