"""Programs that panic right after each host call, inside it while its answer is written, and when they return: whatever
they hold, nothing is left behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from attacks import RIGHTS, Attack
from message_store import Store
from panics import MODES, functions, panicking
from pie_runner.limits import Usage
from pie_runner.process import Process

BATCH = 4
ENDS = {
    "returns": {"return"},
    "unreachable": {"trapped"},
    "in realloc": {"trapped"},
    "stack": {"limit_exceeded"},
    "memory": {"trapped", "limit_exceeded"},
    "in post-return": {"trapped"},
}


@pytest.fixture(scope="module")
def program() -> Iterator[bytes]:
    """Its requests go to a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        yield panicking(server.getsockname()[1])


def held(usage: Usage) -> list[int]:
    return [usage.contexts, usage.pages, usage.exports, usage.rows, usage.results, usage.matchers]


def lives(attack: Attack, program: bytes, mode: str, numbers: list[int]) -> dict[int, str]:
    """How the program ended, by the function that it called last."""
    world, found = attack.world, dict[int, str]()
    for at in range(0, len(numbers), BATCH):
        some = numbers[at : at + BATCH]
        launched = {
            n: attack.launch(program, f'"{MODES.index(mode)} {n}"', capabilities=RIGHTS, mcp=["house"]) for n in some
        }
        processes: list[Process] = []
        for _ in range(2000):
            world.turn()
            processes += [p for p in world.runner.processes.values() if p not in processes]
            if all(map(world.ended, launched.values())):
                break
        for number, pid in launched.items():
            if not world.ended(pid):
                attack.kill(pid)
            log = world.log(pid)
            assert not any(event.text == "/scratch/a" for event in log), "it could not make all resources"
            assert attack.end(pid) != "internal", log[-1]
            found[number] = attack.end(pid)
            del world.logs[pid]
        assert len(processes) == len(some)
        assert all(held(process.usage) == [0] * 6 and not len(process.waitables) for process in processes)
    world.run(lambda: world.engine.contexts == 0)
    world.engine.core.check_integrity()
    runner = world.runner
    assert [len(runner.processes), runner.live, len(runner.timers), len(runner.children)] == [0, 0, 0, 0]
    assert runner.post._listening == {}
    return found


@pytest.mark.parametrize(
    "mode", [mode if mode == "in realloc" else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES]
)
def test_nothing_is_left_behind(
    attack: Attack, store: Store, program: bytes, mode: str, monkeypatch: pytest.MonkeyPatch
):
    """The first mode is there to show that the calls are possible; `in realloc` panics behind calls that return nothing
    long."""
    monkeypatch.setattr("pie_runner.wasm.rests.FREE", float("inf"))  # hundreds are launched, some with large memories
    names = functions()

    found = lives(attack, program, mode, list(range(len(names))))

    assert {names[number]: code for number, code in found.items() if code not in ENDS[mode]} == {}
