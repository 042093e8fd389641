"""What a process may use: each limit ends or slows it alone, and says its name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.limits import Usage
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from runner_programs import forever, generating, spec
from runner_world import World


@pytest.fixture
def limited(model_files):
    """Makes a world whose processes have these limits."""

    def make(**limits: float) -> World:
        world = World(model_files, ProcessLimits(**limits))
        world.add_engine()
        world.run(lambda: world.runner.engines.names() == ["tiny"] and world.runner.uplink.connected)
        return world

    return make


async def open_contexts(api, text):
    model = await api.call("model", "[static]model.load", "")
    made = [await api.call("context", "[static]context.create", model) for _ in range(3)]
    try:
        await api.call("context", "[method]context.fork", made[0])
    except CallError as exc:
        refused = str(exc)
    api.drop(made.pop())
    await api.call("context", "[method]context.fork", made[0])
    return json.dumps(refused)


async def append(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    for _ in range(10):
        await api.call("context", "[method]context.append", context, [1] * 4)
    return "null"


async def talk(api, text):
    for _ in range(20):
        await api.call("session", "send", "x" * 100, "wait")
    return "null"


def test_contexts(limited):
    last = limited(contexts=3).outcome(open_contexts)

    assert "contexts = 3" in last.text


def test_appended_tokens(limited):
    world = limited(tokens=30)

    last = world.outcome(append)

    assert last.error.cause == "limit_exceeded"
    assert "tokens = 30" in last.error.message
    assert "28 were used and 4 more asked for" in last.error.message
    world.run(0.2)
    assert world.engine.contexts == 0


@pytest.mark.parametrize("budget", [41, 50, 100])
def test_generated_tokens_up_to_the_last_one(limited, budget):
    world = limited(tokens=budget)
    world.start(generating)
    world.run(world.ended)

    assert world.log()[-1].error.cause == "limit_exceeded"
    assert f"tokens = {budget}" in world.log()[-1].error.message


async def count_to_the_limit(api, text):
    model = await api.call("model", "[static]model.load", "")
    context = await api.call("context", "[static]context.create", model)
    await api.call("context", "[method]context.append", context, [1] * 5)
    run = await api.call("generation", "[static]run.open", context, spec(max_tokens=400))
    steps = 0
    try:
        while True:
            await api.wait("generation.run", run, "next")
            steps += 1
    except CallError:
        return str(steps)


def test_every_token_of_the_budget_can_be_used(limited):
    assert limited(tokens=25).outcome(count_to_the_limit).text == "20"


def test_wall_time_ends_a_program_that_waits(limited):
    world = limited(wall_seconds=2.0)
    world.start(forever)
    world.run(1.5)
    assert not world.ended()

    world.run(world.ended, limit=1.0)

    assert "wall_seconds = 2" in world.log()[-1].error.message


def test_a_program_within_its_wall_time_leaves_no_timer(limited):
    world = limited(wall_seconds=1000.0)

    world.outcome(talk)

    assert len(world.runner.timers) == 0


def test_whole_output(limited):
    world = limited(output_bytes=1000)
    world.start(talk)
    world.run(world.ended)

    assert [event.kind for event in world.log()] == ["started", *["message"] * 10, "error"]
    assert "output_bytes = 1000" in world.log()[-1].error.message


async def talk_in_greek(api, text):
    for _ in range(20):
        await api.call("session", "send", "ω" * 50, "wait")
    return "null"


def test_output_is_counted_in_bytes(limited):
    whole = limited(output_bytes=1000)
    whole.start(talk_in_greek)
    whole.run(whole.ended)
    slowed = limited(output_rate=100)
    began = slowed.wires.now
    slowed.outcome(talk_in_greek)

    assert [event.kind for event in whole.log()] == ["started", *["message"] * 10, "error"]
    assert 17.0 <= slowed.wires.now - began <= 21.0


def test_fast_output_is_slowed_down_not_lost(limited):
    world = limited(output_rate=100)
    began = world.wires.now

    last = world.outcome(talk)

    assert last.kind == "return"
    assert len(world.log()) == 22
    assert 17.0 <= world.wires.now - began <= 21.0


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 3)), max_size=40), st.integers(50, 400))
def test_output_that_waits_its_turn_keeps_to_the_rate(writes, rate):
    now = 0.0
    usage = Usage(ProcessLimits(output_rate=rate), lambda: now)
    written: list[tuple[float, int]] = []
    for size, pause in writes:
        now = max(now + pause, usage.output_resumes_at)
        usage.spend_output(size)
        written.append((now, size))
    for start, _ in written:
        within = [size for at, size in written if start <= at < start + 5.0]
        assert sum(within) <= 6 * rate + within[-1]
