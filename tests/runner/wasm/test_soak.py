"""Many lives: launches, blocked calls and random kills leave neither memory nor parked calls."""

from __future__ import annotations

import random

import pytest
from lab import Lab
from pie_runner.wasm.program import Program
from pie_wire.errors import Terminated

SOURCE = """
import asyncio
from inferlet import Context, session
async def main(n):
    for i in range(n):
        with Context() as ctx:
            ctx.append_text("a")
            await asyncio.gather(ctx.generate(max_tokens=2).text(), asyncio.sleep(0.001))
    return await session.receive()
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_two_thousand_python_programs(lab: Lab, python: Program):
    chance = random.Random(1)
    resident: list[int] = []
    for _ in range(20):
        launches = [lab.start(python, SOURCE, {"n": 3}, inbox=["go"] * chance.randint(0, 1)) for _ in range(100)]
        for launch in chance.sample(launches, 30):
            turns = iter(range(chance.randint(1, 4)))
            lab.drive(until=lambda turns=turns: next(turns, None) is None)
            lab.driver.kill(launch.fiber, Terminated("at random"))
        lab.drive(until=lambda: not lab.driver.has_work and not lab.fake.timers and not lab.fake.runs, timeout=120)
        for launch in launches:
            lab.driver.kill(launch.fiber, Terminated("the round is over"))
        assert lab.fake.open_resources == 0
        resident.append(resident_mib())

    assert max(resident[10:]) - resident[4] < 64, resident


def resident_mib() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4 // 1024
