"""The stack as containers, for real: `make e2e-compose`."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
from containers import PROJECT, RUNNERS, Stack, eventually
from pie_wire.errors import PieError, ProcessLost, Unavailable
from pie_zmq import Process

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

SUCCESSOR_SEEN = 12.0
"""Seconds until a killed runner is known to be dead: its container starts again, and the successor joins."""
SILENCE_SEEN = 20.0
"""Seconds until the same is known of an engine that is still loading its model: its links have been silent too long."""

WAITING = """
from inferlet import session

async def main() -> str:
    session.send("here")
    return await session.receive()
"""

GENERATING = """
from inferlet import Context, Sampler, session

async def main() -> int:
    ctx = Context()
    ctx.append_text("Once upon a time")
    count = 0
    async for step in ctx.generate(Sampler.greedy(), max_tokens=100000, stop=[]):
        count += 1
        session.send(str(count))
    return count
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A program that says it is there and waits for a message, which it returns."""
    path = tmp_path / "waiting.py"
    path.write_text(WAITING)
    return path


def complete(stack: Stack) -> str:
    done = stack.pie("run", "text-completion", "--", "--prompt", "The capital of France is", "--max-tokens", "8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_are_healthy_and_all_runners_have_joined(stack: Stack):
    for service in ("redis", "kvstore", "engine", "gateway"):
        assert stack.is_healthy(service), service
    assert stack.is_healthy("runner", RUNNERS)
    with stack.client() as client:
        members = client.status().members
    joined = {member.name for member in members if member.kind == "runner"}
    assert joined == {f"runner-{row['ID'][:12]}" for row in stack.containers("runner")}
    assert {m.kind for m in members if m.state == "up"} == {"kvstore", "engine", "gateway", "runner"}


def test_a_program_runs_from_this_machine(stack: Stack):
    assert complete(stack).strip()


def test_a_file_runs_without_being_built(stack: Stack, tmp_path: Path):
    path = tmp_path / "double.py"
    path.write_text("async def main(number: int) -> int:\n    return number * 2\n")
    with stack.client() as client:
        assert client.run_file(path, {"number": 21}).result(30) == 42


def test_the_http_front_streams(stack: Stack):
    with urllib.request.urlopen(f"{stack.http}/v1/models", timeout=10) as answer:
        model = json.load(answer)["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}
    request = urllib.request.Request(
        f"{stack.http}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = [line.decode().strip() for line in answer if line.strip()]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 2


def test_services_run_as_nobody_special_and_inside_only(stack: Stack):
    [gateway] = stack.inspect("gateway", "{{.Id}}")
    outside = stack.address(gateway, f"{PROJECT}_outside")
    for service in ("kvstore", "engine", "runner"):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() == "10001"
        assert stack.can_reach(service, "gateway:8080")
        assert not stack.can_reach(service, f"{outside}:8080")
    assert stack.compose("exec", "-T", "gateway", "id", "-u").strip() == "10001"
    assert stack.can_reach("gateway", f"{outside}:8080")


def test_a_killed_runner_costs_its_own_processes_only(stack: Stack, waiting: Path):
    with stack.client() as client:
        processes = [client.run_file(waiting) for _ in range(4)]
        for process in processes:
            assert next(event for event in process.events() if event.kind != "progress").kind == "started"
        runner_of = {info.pid: info.runner for info in client.list()}
        dead = runner_of[processes[0].pid]
        index = 1 + runners(stack).index(dead)
        before = stack.restarts("runner")
        stack.kill("runner", index)
        killed = time.monotonic()
        for process in processes:
            if runner_of[process.pid] == dead:
                with pytest.raises(ProcessLost):
                    process.result(30)
                assert time.monotonic() - killed < SUCCESSOR_SEEN
        survivors = [process for process in processes if runner_of[process.pid] != dead]
        assert survivors, "launches were spread over the runners"
        assert client.launch("hello", {"name": "again"}).result(30) == "Hello, again!"
        for process in survivors:
            process.signal("done")
            assert process.result(30) == "done"
    eventually("the runner is back", lambda: stack.is_healthy("runner", RUNNERS))
    assert stack.restarts("runner") == before + 1


def runners(stack: Stack) -> list[str]:
    """Member names of the runners, in the order of their containers' numbers."""
    hosts = [stack.compose("exec", "-T", "--index", str(i), "runner", "hostname") for i in range(1, RUNNERS + 1)]
    return [f"runner-{host.strip()}" for host in hosts]


def test_a_killed_engine_is_reported_and_comes_back(stack: Stack, tmp_path: Path):
    path = tmp_path / "generating.py"
    path.write_text(GENERATING)
    with stack.client() as client:
        process = client.run_file(path)
        events = process.events()
        while next(events).kind != "message":
            pass
        stack.kill("engine")
        killed = time.monotonic()
        with pytest.raises(PieError) as caught:
            process.result(30)
        assert time.monotonic() - killed < SILENCE_SEEN
        assert caught.value.code == "engine_lost" or "engine_lost" in str(caught.value)
        eventually("the engine is back", lambda: stack.is_healthy("engine"))
        eventually("an answer", lambda: stack.pie("run", "text-completion", "--", "--prompt", "Hi").returncode == 0)
        eventually("no page is owned", lambda: all(e.pool.owned == 0 for e in client.pages().engines), timeout=10)


def test_a_killed_gateway_takes_up_where_it_was(stack: Stack, waiting: Path):
    with stack.client() as client:
        process = client.run_file(waiting)
        events = process.events()
        while next(events).kind != "message":
            pass
        stack.kill("gateway")
        eventually("the gateway is back", lambda: stack.is_healthy("gateway"))
        eventually("the program is reached", lambda: signalled(process), timeout=30)
        assert process.result(30) == "done"


def signalled(process: Process) -> bool:
    try:
        process.signal("done")
    except Unavailable:
        return False
    return True


def test_an_engine_that_comes_back_with_another_address_is_found(stack: Stack):
    network = f"{PROJECT}_inside"
    [engine] = stack.inspect("engine", "{{.Id}}")
    old = stack.address(engine, network)
    squatters: list[str] = []
    stack.docker("network", "disconnect", network, engine)
    try:
        while old not in [stack.address(squatter, network) for squatter in squatters] and len(squatters) < 9:
            squatters.append(stack.docker("run", "--detach", "--network", network, "redis:7", "sleep", "600").strip())
        stack.docker("network", "connect", network, engine)
        assert stack.address(engine, network) != old
        eventually("an answer", lambda: stack.pie("run", "text-completion", "--", "--prompt", "Hi").returncode == 0)
    finally:
        for squatter in squatters:
            stack.docker("rm", "--force", squatter)


def test_a_killed_redis_forgets_nothing_acknowledged(stack: Stack):
    with stack.client() as client:
        before = {program.ref.sha256 for program in client.programs()}
        stack.compose("exec", "-T", "redis", "sh", "-c", "kill -9 $(pidof redis-server)", check=False)
        eventually("redis and kvstore are back", lambda: stack.is_healthy("redis") and stack.is_healthy("kvstore"))
        assert {program.ref.sha256 for program in client.programs()} == before
    assert complete(stack).strip()


def test_all_end_well_when_asked(stack: Stack):
    stack.compose("stop")
    for service in ("runner", "gateway", "engine", "kvstore", "redis"):
        assert set(stack.inspect(service, "{{.State.ExitCode}}")) == {"0"}, service
