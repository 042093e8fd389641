"""Calls of tool servers that clients run: to the right client, and an answer in every case."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_world import FakeClient, FakeRunner, World
from pie_gateway.tools import MAX_CALLS
from pie_wire.errors import BadField, Gone, NotFound, Overloaded, PeerLost, PieError, Unavailable
from pie_wire.hub import Answer
from pie_wire.messages.client import CallTool
from pie_wire.messages.gateway import AskTool, Launch, ToolAnswered


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def runner(world: World) -> FakeRunner:
    return world.runner()


def tool_client(world: World, name: str = "client") -> tuple[FakeClient, list[Any]]:
    """A client that keeps the calls it gets."""
    client, calls = world.client(name), []
    client.hub.on(CallTool, calls.append)
    return client, calls


def ask(world: World, runner: FakeRunner, pid: str, timeout: float = 30.0) -> list[Answer[ToolAnswered]]:
    answers: list[Answer[ToolAnswered]] = []
    assert runner.peer is not None
    runner.hub.request(runner.peer, AskTool(pid, "calc", "tools/list", "{}"), answers.append, timeout=timeout)
    world.run(0.3)
    return answers


def error_of(answers: list[Answer[ToolAnswered]]) -> PieError | None:
    assert len(answers) == 1
    return answers[0].error


def test_a_call_reaches_the_client_that_launched_and_its_answer_comes_back(world: World, runner: FakeRunner):
    client, calls = tool_client(world)
    other, others = tool_client(world, "other")
    pid = client.launch("hello", mcp=["calc"])
    assert runner.processes[pid].start.mcp == ["calc"]

    good = ask(world, runner, pid)
    assert not good
    assert (calls[0].message.pid, calls[0].message.server, calls[0].message.method) == (pid, "calc", "tools/list")
    calls[0].reply(ToolAnswered("[1]"))
    world.run(0.3)
    assert good[0].value().result == "[1]"

    bad = ask(world, runner, pid)
    calls[1].fail(NotFound("no such tool"))
    world.run(0.3)
    assert isinstance(error_of(bad), NotFound)
    assert others == []
    assert other.hub is not client.hub


def test_when_the_client_dies_its_calls_fail_and_later_ones_too(world: World, runner: FakeRunner):
    client, _ = tool_client(world)
    pid = client.launch("hello", mcp=["calc"])
    waiting = ask(world, runner, pid)
    world.kill("client")
    world.run(0.5)

    assert isinstance(error_of(waiting), PeerLost)
    assert isinstance(error_of(ask(world, runner, pid)), Unavailable)


def test_a_client_that_takes_the_process_over_takes_the_calls(world: World, runner: FakeRunner):
    first, _ = tool_client(world)
    second, calls = tool_client(world, "second")
    pid = first.launch("hello", mcp=["calc"])
    second.attach(pid, 1)
    ask(world, runner, pid)

    assert len(calls) == 1


def test_a_client_that_does_not_answer_in_time(world: World, runner: FakeRunner):
    client, _ = tool_client(world)
    pid = client.launch("hello", mcp=["calc"])
    waiting = ask(world, runner, pid, timeout=2.0)
    world.run(3.0)

    error = error_of(waiting)
    assert error is not None
    assert error.code == "deadline_exceeded"


def test_calls_of_what_does_not_run_are_refused(world: World, runner: FakeRunner):
    client, _ = tool_client(world)
    pid = client.launch("hello", mcp=["calc"])
    stranger = world.runner("runner-1")

    assert isinstance(error_of(ask(world, stranger, pid)), BadField)
    assert isinstance(error_of(ask(world, runner, "0" * 32)), Gone)
    runner.emit(pid, "return", "null")
    world.run(0.3)
    assert isinstance(error_of(ask(world, runner, pid)), Gone)


def test_calls_under_way_are_bounded_and_answered_ones_make_room(world: World, runner: FakeRunner):
    client, calls = tool_client(world)
    pid = client.launch("hello", mcp=["calc"])
    waiting = [ask(world, runner, pid) for _ in range(MAX_CALLS)]

    assert isinstance(error_of(ask(world, runner, pid)), Overloaded)
    calls[0].reply(ToolAnswered("1"))
    world.run(0.3)
    assert waiting[0][0].value().result == "1"
    assert not ask(world, runner, pid)


def test_answers_that_a_runner_is_too_slow_for_are_not_sent(
    world: World, runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pie_gateway.tools.SLOW_BYTES", 1 << 20)
    client, calls = tool_client(world)
    pid = client.launch("hello", mcp=["calc"])
    waiting = [ask(world, runner, pid) for _ in range(4)]
    for call in calls:
        call.reply(ToolAnswered("x" * (1 << 20)))
    world.run(0.5)

    errors = [error_of(answers) for answers in waiting]
    assert errors[:1] == [None]
    assert [type(error) for error in errors[2:]] == [Overloaded, Overloaded]
    again = ask(world, runner, pid)
    calls[-1].reply(ToolAnswered("1"))
    world.run(0.3)
    assert again[0].value().result == "1"


@pytest.mark.parametrize("names", [["*"], ["../x"], ["a b"], ["x"] * 1000])
def test_bad_names_are_refused_at_the_launch(world: World, runner: FakeRunner, names: list[str]):
    client, _ = tool_client(world)
    with pytest.raises(BadField):
        client.ask(Launch(world.pid(), "hello", mcp=names))
