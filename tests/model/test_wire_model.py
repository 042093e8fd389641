"""Random faults against the real cores: no token lost, no page leaked, exactly one terminal event."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest
from network import Faults
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from world import VOCAB, Held, World

SCHEDULES = int(os.environ.get("PIE_MODEL_SCHEDULES", "150"))
"""Random schedules of the quick tier; the slower one runs ten times as many."""

PASSING = {"process_lost", "engine_lost", "store_unavailable", "unavailable", "deadline_exceeded", "skipped"}
"""What a passing fault may end a process with."""


def expected(given: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Produced and held tokens of the `decode` program, computed without Pie."""
    context = list(given["prompt"])
    produced: list[int] = []
    for part in given["parts"]:
        for _ in range(part):
            token = next_token(context, Sampler(0.0, 1.0, 0, 0), len(context), VOCAB)
            context.append(token)
            produced.append(token)
            if len(produced) >= given.get("stop_after", 1 << 30):
                break
    return produced, context


def random_input(rng: random.Random) -> dict[str, Any]:
    given: dict[str, Any] = {
        "prompt": [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 24))],
        "parts": [rng.randrange(1, 12) for _ in range(rng.randrange(1, 4))],
        "window": rng.choice([1, 2, 8, 32]),
    }
    if rng.random() < 0.3:
        given["fork"] = True
    if rng.random() < 0.3:
        given["stop_after"] = rng.randrange(1, 20)
    return given


def check_tokens(held: Held, *, complete: bool) -> None:
    """Messages are a prefix of the right tokens; all of them, and the right result, if it returned."""
    if held.failed is not None:
        return
    assert held.program == "decode"
    produced, context = expected(held.input)
    sent = [int(text) for text in held.messages]
    assert sent == produced[: len(sent)], held.pid
    last = held.events[-1]
    if last.kind == "return":
        assert sent == produced
        assert json.loads(last.text) == {"produced": produced, "held": context}
    else:
        assert last.error is not None
        assert not complete, last.error
        code = last.error.cause if last.error.code == "program_error" else last.error.code
        assert code in PASSING, last.error


def launch_some(world: World, rng: random.Random, count: int) -> None:
    for _ in range(count):
        rng.choice(world.clients).launch("decode", random_input(rng))


def test_everything_completes_on_a_quiet_network() -> None:
    world = World(1, Faults())
    launch_some(world, random.Random(1), 12)

    assert world.network.run(60.0, world.idle)

    world.network.run(2.0)
    world.check()
    for held in world.held():
        check_tokens(held, complete=True)


@pytest.mark.parametrize("seed", range(SCHEDULES // 3))
def test_lossy_links_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    faults = Faults(
        drop=rng.choice([0.01, 0.05, 0.15]), duplicate=0.05, delay=0.002, jitter=rng.choice([0.0, 0.05, 0.3])
    )
    world = World(seed, faults)
    launch_some(world, rng, 8)

    assert world.network.run(240.0, world.idle)

    world.network.faults = Faults()
    world.network.run(3.0)
    world.check()
    for held in world.held():
        check_tokens(held, complete=True)


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_deaths_stalls_and_cuts(seed: int) -> None:
    deaths_stalls_and_cuts(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_more_deaths_stalls_and_cuts(block: int) -> None:
    for seed in range((block + 1) * SCHEDULES, (block + 2) * SCHEDULES):
        deaths_stalls_and_cuts(seed)


def deaths_stalls_and_cuts(seed: int) -> None:
    rng = random.Random(10_000 + seed)
    faults = Faults(drop=rng.choice([0.0, 0.02]), duplicate=0.02, jitter=rng.choice([0.0, 0.05]))
    world = World(seed, faults)
    launch_some(world, rng, 10)

    for _ in range(rng.randrange(1, 4)):
        world.network.run(rng.uniform(0.1, 3.0))
        disturb(world, rng)
        launch_some(world, rng, 2)

    assert world.network.run(300.0, world.idle), [
        (h.pid, h.launched, len(h.events), h.events[-1:]) for h in world.held() if not h.ended
    ]
    assert world.network.run(20.0, lambda: world.network.is_whole)
    world.network.faults = Faults()
    world.network.run(5.0)
    world.check()
    for held in world.held():
        check_tokens(held, complete=False)


def disturb(world: World, rng: random.Random) -> None:
    """One fault: a death with restart, a stop of up to 10 s, or a cut link of up to 8 s."""
    network = world.network
    victim = rng.choice(["kvstore", "gateway", "engine-0", "runner-0", "runner-1"])
    what = rng.choice(["kill", "kill", "stop", "cut"])
    if what == "kill":
        network.kill(victim, seen_after=rng.choice([0.1, 0.1, None]))
        network.later(rng.uniform(0.2, 3.0), lambda: world.restart(victim))
    elif what == "stop":
        node = network.nodes[victim]
        node.stopped = True

        def go_on() -> None:
            node.stopped = False

        network.later(rng.uniform(1.0, 10.0), go_on)
    else:
        other = rng.choice([name for name in network.nodes if name != victim])
        pair = frozenset((victim, other))
        network.cut.add(pair)
        network.later(rng.uniform(0.5, 8.0), lambda: network.cut.discard(pair))
