"""Random faults against families of programs: nobody outlives its parent unless detached, and everybody ends."""

from __future__ import annotations

import os
import random

import pytest
from network import Faults
from pie_wire.messages.common import ProcessInfo
from test_wire_model import PASSING, disturb, random_input
from world import World

SCHEDULES = int(os.environ.get("PIE_MODEL_SCHEDULES", "150")) // 10


def rows(world: World) -> dict[str, ProcessInfo]:
    return {process.pid: process.record.info() for process in world.gateway.table}


def at_rest(world: World) -> bool:
    return world.idle() and all(row.ended_at for row in rows(world).values())


def check_families(world: World) -> None:
    """What the records of all processes say, whatever has happened."""
    found = rows(world)
    for row in found.values():
        parent = found.get(row.parent)
        if parent is not None and not row.detached:
            assert row.ended_at <= parent.ended_at + 12.0, (row, parent)
    assert world.gateway.children._of == {}
    assert not world.gateway.children._trees
    for runner in world.runners.values():
        assert len(runner.children) == 0
        assert runner.processes == {}
    starts = [pid for runner in world.runners.values() for pid in runner._remembered]
    assert len(starts) == len(set(starts)), "a process ran on two runners"


def launch_families(world: World, rng: random.Random, count: int) -> None:
    for _ in range(count):
        given = {"depth": rng.choice([0, 0, 1]), "tasks": [random_input(rng) for _ in range(rng.randrange(1, 4))]}
        rng.choice(world.clients).launch("family", given)


def test_families_on_a_quiet_network():
    world = World(1, Faults())
    launch_families(world, random.Random(1), 6)

    assert world.network.run(60.0, lambda: at_rest(world))

    world.network.run(1.0)
    check_families(world)
    assert {held.events[-1].kind for held in world.held()} == {"return"}
    assert all(row.state == "returned" for row in rows(world).values() if row.detached)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SCHEDULES, 5 * SCHEDULES))
def test_families_through_many_more(seed: int):
    families_through_deaths_stalls_and_cuts(seed)


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_families_through_deaths_stalls_and_cuts(seed: int):
    families_through_deaths_stalls_and_cuts(seed)


def families_through_deaths_stalls_and_cuts(seed: int) -> None:
    rng = random.Random(20_000 + seed)
    world = World(seed, Faults(drop=rng.choice([0.0, 0.02]), duplicate=0.02, jitter=rng.choice([0.0, 0.05])))
    launch_families(world, rng, 4)
    for _ in range(rng.randrange(1, 4)):
        world.network.run(rng.uniform(0.1, 2.0))
        disturb(world, rng)
        launch_families(world, rng, 1)

    assert world.network.run(300.0, lambda: at_rest(world)), [
        (row.pid, row.parent, row.state, row.runner) for row in rows(world).values() if not row.ended_at
    ]
    assert world.network.run(20.0, lambda: world.network.is_whole)
    world.network.faults = Faults()
    world.network.run(5.0)
    world.check()
    check_families(world)
    for held in world.held():
        last = held.events[-1] if held.events else None
        if last is not None and last.error is not None:
            chain = f"{last.error.code} {last.error.cause} {last.error.message}"
            assert any(code in chain for code in PASSING | {"terminated", "gone"}), last.error
