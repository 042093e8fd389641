"""A supervisor over a real kvstore and services that only join it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pie_cli.main import pie
from pie_cli.paths import StackPaths
from pie_cli.state import StackState, is_up, read_state

DRIVER = Path(__file__).with_name("stack_driver.py")


class Stack:
    def __init__(self, home: Path) -> None:
        self.paths = StackPaths(home)
        self.process: subprocess.Popen[str] | None = None

    def start(self, **behaviours: dict[str, str]) -> subprocess.Popen[str]:
        given = {name.replace("_", "-"): variables for name, variables in behaviours.items()}
        env = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), json.dumps(given)],
            env={**env, "PIE_HOME": str(self.paths.home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def state(self) -> StackState:
        state = read_state(self.paths)
        assert state is not None
        return state

    def wait(self, condition: Callable[[StackState], bool], seconds: float = 20.0) -> StackState:
        deadline = time.monotonic() + seconds
        while True:
            state = read_state(self.paths)
            if state is not None and condition(state):
                return state
            assert time.monotonic() < deadline, f"it did not come to be in time: {state}"
            time.sleep(0.03)

    def ready(self, **behaviours: dict[str, str]) -> StackState:
        self.start(**behaviours)
        return self.wait(lambda state: state.phase == "ready")

    def pids(self) -> dict[str, int]:
        return {service.name: service.pid for service in self.state().services}

    def pie(self, *arguments: str) -> Result:
        return CliRunner(env={"PIE_HOME": str(self.paths.home), "PIE_ENDPOINT": None}).invoke(pie, arguments)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="pie-", dir="/tmp") as home:
        stack = Stack(Path(home))
        yield stack
        stack.close()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for_end(pids: list[int], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def test_a_stack_comes_up_is_seen_and_goes_down_without_a_trace(stack: Stack):
    state = stack.ready()
    assert {service.state for service in state.services} == {"ready"}
    assert state.programs == ["fake-program"]

    status = json.loads(stack.pie("status", "--json").output)
    assert {row["name"]: row["health"] for row in status["services"]} == {
        "kvstore": "up",
        "gateway": "up",
        "engine-0": "up",
        "runner-0": "up",
    }
    assert "engine-0" in stack.pie("status").output
    again = stack.pie("up")
    assert again.exit_code == 0
    assert "already up" in again.stderr

    assert "kvstore" in stack.pie("logs", "kvstore").output
    missing = stack.pie("logs", "nothing")
    assert (missing.exit_code, "engine-0" in missing.stderr) == (1, True)

    down = stack.pie("down")
    assert (down.exit_code, stack.process.wait(5) if stack.process else None) == (0, 0)
    wait_for_end(list(stack.pids().values()))
    assert stack.state().phase == "stopped"
    assert not list(stack.paths.sockets.glob("*.sock"))
    assert stack.pie("status").exit_code == 3
    assert stack.pie("down").exit_code == 0


@pytest.mark.parametrize("victim", ["engine-0", "kvstore"])
def test_a_killed_service_is_started_again(stack: Stack, victim: str):
    stack.ready()
    before = stack.pids()[victim]
    os.kill(before, signal.SIGKILL)

    state = stack.wait(lambda s: any(x.name == victim and x.restarts == 1 and x.state == "ready" for x in s.services))

    assert state.phase == "ready"
    assert stack.pids()[victim] not in (0, before)


def test_nothing_outlives_a_killed_supervisor(stack: Stack):
    state = stack.ready()
    redis = subprocess.run(["pgrep", "-P", str(stack.pids()["kvstore"])], capture_output=True, text=True).stdout.split()

    os.kill(state.supervisor, signal.SIGKILL)

    wait_for_end([*stack.pids().values(), *map(int, redis)])
    assert not is_up(stack.paths)
    assert stack.pie("status").exit_code == 3
    assert "not running" in stack.pie("down").stderr


def test_a_service_that_cannot_start_stops_the_start_with_its_reason(stack: Stack):
    process = stack.start(engine_0={"FAKE_EXIT": "1"})

    assert process.wait(20) == 1
    assert "there is no such model" in (process.stderr.read() if process.stderr else "")
    assert stack.state().phase == "failed"
    assert "engine-0 did not start: there is no such model" in stack.state().error
    wait_for_end([pid for pid in stack.pids().values() if pid])


def test_a_crash_loop_is_reported_and_ends_until_pie_up(stack: Stack):
    stack.ready(runner_0={"FAKE_LIFE": "0.8"})

    state = stack.wait(lambda s: any(x.state == "failed" for x in s.services), 30.0)

    failed = next(service for service in state.services if service.state == "failed")
    assert failed.name == "runner-0"
    assert "died 3 times" in failed.error
    result = stack.pie("up")
    assert "starting again" in result.stderr
    assert next(s for s in stack.state().services if s.name == "runner-0").restarts > failed.restarts


def test_a_stopped_service_does_not_hold_the_stack(stack: Stack):
    stack.ready()
    os.kill(stack.pids()["engine-0"], signal.SIGSTOP)

    begun = time.monotonic()
    assert stack.pie("down").exit_code == 0

    assert time.monotonic() - begun < 8.0
    wait_for_end([pid for pid in stack.pids().values() if pid])


def test_a_second_interrupt_forces(stack: Stack):
    stack.ready()
    for _ in range(2):
        os.kill(stack.state().supervisor, signal.SIGINT)
        time.sleep(0.02)

    assert stack.process is not None
    stack.process.wait(3)
    wait_for_end(list(stack.pids().values()))
