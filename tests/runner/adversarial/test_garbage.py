"""Every function of the world, called by a guest with values made up: whatever it passes, the host has an answer.

A finding is an outcome with code `internal` (a host function failed in a way it does not state), a crash of the
process, or something left behind.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter

import pytest
from attacks import RIGHTS, Attack
from garbage import caller
from hostile import imports
from message_store import Store

BATCH = 8
CALLS = 4


@pytest.fixture(scope="module")
def program() -> bytes:
    """HTTP is asked where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return caller(port)


def storm(attack: Attack, program: bytes, texts: list[str]) -> Counter[str]:
    """Outcomes of that many lives, a few at a time; those that wait for something are killed."""
    world = attack.world
    found: Counter[str] = Counter()
    for at in range(0, len(texts), BATCH):
        pids = [
            attack.launch(program, f'"{text}"', capabilities=RIGHTS, mcp=["house"]) for text in texts[at : at + BATCH]
        ]
        for _ in range(20):
            world.turn()
            if all(world.ended(pid) for pid in pids):
                break
        for pid, text in zip(pids, texts[at : at + BATCH], strict=True):
            if not world.ended(pid):
                attack.kill(pid)
            code = attack.end(pid)
            assert code != "internal", f"{text}: {world.log(pid)[-1]}"
            found[code] += 1
            del world.logs[pid]
        world.gateway.launches.clear()
    world.run(lambda: world.engine.contexts == 0)
    world.engine.core.check_integrity()
    runner = world.runner
    assert [len(runner.processes), runner.live, len(runner.timers), len(runner.children)] == [0, 0, 0, 0]
    assert runner.post._listening == {}
    return found


def test_every_function_with_made_up_values(attack: Attack, store: Store, program: bytes):
    every = imports()
    texts = [f"{seed + 1} 4 {number}" for number in range(len(every)) for seed in range(2)]

    found = storm(attack, program, texts)

    assert found["trapped"] > len(every)
    assert found.total() == len(texts)


def test_some_thousands_of_calls(attack: Attack, store: Store, program: bytes):
    found = storm(attack, program, [f"{seed + 1000} {CALLS} 9999" for seed in range(120)])

    assert found.total() == 120


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_million_lives(attack: Attack, store: Store, program: bytes, capsys: pytest.CaptureFixture[str]):
    """`PIE_FUZZ_CASES` and `PIE_FUZZ_SEED` take another number and other values."""
    cases = int(os.environ.get("PIE_FUZZ_CASES", "1000000"))
    first = int(os.environ.get("PIE_FUZZ_SEED", "1000000"))
    total: Counter[str] = Counter()
    for seed in range(first, first + cases, 1000):
        total += storm(attack, program, [f"{seed + number} {CALLS} 9999" for number in range(1000)])
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(total)}\n")
    assert total.total() == cases
