"""Random services die while clients keep launching: every launch has one answer, and nothing is left over."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e_stack import Stacks
from generations import Generation
from pie_wire.errors import PieError
from pie_wire.messages.common import TERMINAL_KINDS
from pie_zmq import Client

SERVICES = ["kvstore", "engine-0", "runner-0", "runner-1", "gateway"]
DEATHS = 8
PAUSE = (0.3, 6.0)
FINAL = {"process_lost", "program_error", "unavailable", "engine_lost"}
"""What a generation may end with when something it needed died."""


def keep_launching(client: Client, number: int, until: float) -> list[Generation]:
    """Generations one after the other; refused launches are tried again a little later."""
    done: list[Generation] = []
    while time.monotonic() < until:
        prompt = f"client {number}, launch {len(done)}"
        try:
            process = client.launch("text-completion", {"prompt": prompt, "max_tokens": 60, "temperature": 0})
        except PieError as exc:
            refusal = exc
        else:
            done.append(Generation(process))
            done[-1].read()
            continue
        assert refusal.retryable, refusal
        time.sleep(0.2)
    return done


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_deaths(stacks: Stacks, script: Path, seed: int):
    scripted = stacks.get(f"chaos {seed}", f"scripted:{script}", runners=2)
    chance = random.Random(seed)
    victims = chance.sample(SERVICES * 2, DEATHS)  # Of five deaths within a minute the supervisor makes a crash loop.
    until = time.monotonic() + DEATHS * sum(PAUSE) / 2 + 5.0
    with scripted.client() as client, ThreadPoolExecutor(6) as pool:
        work = [pool.submit(keep_launching, client, number, until) for number in range(6)]
        for victim in victims:
            time.sleep(chance.uniform(*PAUSE))
            if scripted.services()[victim].pid:
                scripted.kill(victim)
        generations = [one for future in work for one in future.result(120)]
        scripted.wait_ready()

        assert len(generations) > 20
        for one in generations:
            assert one.failure is None
            assert [event.seq for event in one.events] == list(range(1, len(one.events) + 1))
            assert [event.kind in TERMINAL_KINDS for event in one.events].count(True) == 1
            if one.error is None:
                assert one.text == "".join(one.pieces)
            else:
                assert one.error.code in FINAL, one.error
        assert any(one.error is None for one in generations)
    scripted.check_quiet()
