"""Runs that are drained, steps that are taken, passes that are computed in one call: what they give, how they end."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pie_runner.testing import CallError
from pie_runner.wasm.hostcall import Case
from pie_wire.errors import Terminated
from runner_programs import context_of, draw, forever, output_of, pass_, probe, sampler, spec, steps_of
from runner_world import World

PROMPT = [1, 2, 3]
AS_TEXT = Case("text")
WARM = sampler(temperature=1.2)
FULL = 17
"""Messages of half a million characters that fill what a client may leave unread."""


def program(world: World, main, **fields):
    event = world.outcome(main, **fields)
    assert event.error is None, event.error
    return json.loads(event.text)


async def opened(api, **fields):
    context = await context_of(api, PROMPT)
    return context, await api.call("generation", "[static]run.open", context, spec(**fields))


async def drained(api, run, send=False):
    pending = await api.call("generation", "[method]run.drain", run, AS_TEXT if send else None)
    return await api.wait("generation.pending-rest", pending)


async def code_of(call):
    try:
        await call
    except CallError as exc:
        return exc.code
    return "none"


def messages(world: World) -> list[str]:
    return [event.text for event in world.log() if event.kind == "message"]


RUNS = {
    "length": {"max_tokens": 40},
    "stop": {"max_tokens": 400, "stop_ids": list(range(40, 60))},
    "stop string": {"max_tokens": 400, "stop_strings": ["e"]},
    "context full": {},
    "lockstep": {"max_tokens": 20, "window": 1},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_drained_run_is_the_run_step_by_step(world: World, name: str):
    async def main(api, text):
        fields = {"sampler": WARM, "seed": 5} | RUNS[name]
        first = await context_of(api, PROMPT)
        steps = await steps_of(api, first, **fields)
        again = await context_of(api, PROMPT)
        run = await api.call("generation", "[static]run.open", again, spec(**fields))
        rest = await drained(api, run, send=True)
        return json.dumps(
            {
                "same": first.tokens == again.tokens,
                "tokens": [[token for step in steps for token in step.tokens], rest.tokens],
                "pieces": [step.text for step in steps if step.text],
                "text": rest.text,
                "finish": [steps[-1].finish, rest.finish],
            }
        )

    got = program(world, main)

    assert got["same"]
    assert got["tokens"][0] == got["tokens"][1]
    assert got["pieces"] == messages(world)
    assert got["text"] == "".join(got["pieces"])
    assert got["finish"][0] == got["finish"][1]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ways=st.lists(st.sampled_from(["next", "take", "drain", "give up"]), max_size=12),
    window=st.sampled_from([1, 4, 64]),
)
def test_steps_are_the_same_however_they_are_taken(model_files, ways: list[str], window: int):
    world = World(model_files)
    world.add_engine()
    world.run(lambda: world.runner.engines.names() == ["tiny"] and world.runner.uplink.connected)

    async def main(api, text):
        fields = {"sampler": WARM, "seed": 5, "max_tokens": 30, "window": window}
        expected = await context_of(api, PROMPT)
        await steps_of(api, expected, **fields)
        context = await context_of(api, PROMPT)
        run = await api.call("generation", "[static]run.open", context, spec(**fields))
        tokens, finish = [], None
        for way in [*ways, "drain"]:
            if finish is not None:
                break
            if way == "next":
                step = await api.wait("generation.run", run, "next")
            elif way == "take":
                step = await api.call("generation", "[method]run.take", run)
            elif way == "drain":
                step = await drained(api, run)
            else:
                pending = await api.call("generation", "[method]run.drain", run, None)
                await api.wait("futures.done", await api.call("clocks", "sleep", 20_000_000))
                if pending.ready:
                    step = await api.call("generation", "[method]pending-rest.get", pending)
                else:
                    api.drop(pending)
                    tokens = context.tokens[len(PROMPT) :]
                    continue
            tokens = [*tokens, *step.tokens]
            finish = step.finish
        return json.dumps([context.tokens == expected.tokens, tokens == context.tokens[len(PROMPT) :], finish])

    try:
        assert program(world, main) == [True, True, "length"]
    finally:
        world.aside.close()


def test_text_may_be_sent_in_a_field_of_an_object(world: World):
    async def main(api, text):
        _, run = await opened(api, max_tokens=8)
        pending = await api.call("generation", "[method]run.drain", run, Case("field", 'del"ta'))
        return json.dumps((await api.wait("generation.pending-rest", pending)).text)

    said = program(world, main)

    assert "".join(json.loads(message)['del"ta'] for message in messages(world)) == said


def test_who_takes_a_step_sleeps_until_it_is_here(world: World):
    async def main(api, text):
        context, run = await opened(api, max_tokens=3)
        steps = [await api.call("generation", "[method]run.take", run) for _ in range(3)]
        again = await api.call("generation", "[method]run.take", run)
        return json.dumps([[step.finish for step in steps], again.finish, again.tokens, len(context.tokens)])

    assert program(world, main) == [[None, None, "length"], "length", [], 6]


def test_a_drained_run_is_nobody_elses(world: World):
    async def main(api, text):
        _, run = await opened(api, max_tokens=400)
        pending = await api.call("generation", "[method]run.drain", run, None)
        codes = [
            await code_of(api.call("generation", "[method]run.next", run)),
            await code_of(api.call("generation", "[method]run.take", run)),
            await code_of(api.call("generation", "[method]run.drain", run, None)),
        ]
        await api.wait("generation.pending-rest", pending)
        codes.append(await code_of(api.call("generation", "[method]pending-rest.get", pending)))
        return json.dumps(codes)

    assert program(world, main) == ["conflict", "conflict", "conflict", "closed"]


@pytest.mark.parametrize(
    ("fields", "send"),
    [({"probes": [probe(0, "entropy").kind]}, False), ({"text": False}, True)],
    ids=["probes", "text"],
)
def test_what_cannot_be_drained_is_refused_and_goes_on_by_steps(world: World, fields, send: bool):
    async def main(api, text):
        _, run = await opened(api, max_tokens=4, **fields)
        code = await code_of(api.call("generation", "[method]run.drain", run, AS_TEXT if send else None))
        steps = [await api.call("generation", "[method]run.take", run) for _ in range(4)]
        return json.dumps([code, steps[-1].finish])

    assert program(world, main) == ["bad_request", "length"]


def test_closing_the_run_ends_its_draining(world: World):
    async def main(api, text):
        context, run = await opened(api, max_tokens=400)
        pending = await api.call("generation", "[method]run.drain", run, None)
        await api.wait("futures.done", await api.call("clocks", "sleep", 50_000_000))
        await api.call("generation", "[method]run.close", run)
        held = len(context.tokens)
        code = await code_of(api.wait("generation.pending-rest", pending))
        await api.call("context", "[method]context.append", context, [7])
        return json.dumps([code, 3 < held < 403, len(context.tokens) - held])

    assert program(world, main) == ["closed", True, 1]


def test_a_client_that_does_not_read_stops_the_draining_until_it_does(world: World):
    async def main(api, text):
        for _ in range(FULL):
            await api.call("session", "send", "x" * 500_000, "wait")
        context, run = await opened(api, max_tokens=60, window=4)
        pending = await api.call("generation", "[method]run.drain", run, AS_TEXT)
        rest = await api.wait("generation.pending-rest", pending)
        return json.dumps([rest.text, len(context.tokens)])

    world.gateway.consumes = False
    world.start(main)
    world.run(2.0)
    assert len(messages(world)) == FULL
    taken = [len(state.tokens) for process in world.runner.processes.values() for state in process.contexts]
    assert taken[0] < len(PROMPT) + 60

    world.gateway.consumes = True
    world.gateway.credit("p1")
    world.run(world.ended)

    said, held = json.loads(world.log()[-1].text)
    assert "".join(messages(world)[FULL:]) == said
    assert held == len(PROMPT) + 60


def test_what_came_is_taken_before_programs_run(world: World):
    """One of them may compute for long."""

    async def main(api, text):
        _, run = await opened(api, max_tokens=12)
        return json.dumps((await drained(api, run, send=True)).text)

    left: list[int] = []
    run_ready = world.host.run_ready

    def watched() -> None:
        sessions = [link.session for link in world.runner.engines._links.values() if link.session is not None]
        left.extend(len(run._buffer) for session in sessions for run in session.runs.values())
        run_ready()

    world.host.run_ready = watched
    text = program(world, main)

    assert text
    assert "".join(messages(world)) == text
    assert left
    assert not any(left)


@pytest.mark.parametrize("waited", [True, False], ids=["waited for", "given up"])
def test_the_last_piece_is_not_lost_when_it_waits_for_room(world: World, waited: bool):
    async def main(api, text):
        for _ in range(FULL):
            await api.call("session", "send", "x" * 500_000, "wait")
        context, run = await opened(api, max_tokens=1)
        pending = await api.call("generation", "[method]run.drain", run, AS_TEXT)
        if not waited:
            await api.wait("futures.done", await api.call("clocks", "sleep", 500_000_000))
            api.drop(pending)
            return json.dumps(len(context.tokens))
        rest = await api.wait("generation.pending-rest", pending)
        api.drop(pending)
        await api.call("session", "send", "END", "wait")
        return json.dumps(rest.text)

    world.gateway.consumes = False
    world.start(main)
    world.run(2.0)
    assert len(messages(world)) == FULL + (not waited)
    world.gateway.consumes = True
    world.gateway.credit("p1")
    world.run(world.ended)

    answer = json.loads(world.log()[-1].text)
    sent = messages(world)[FULL:]
    assert sent == [answer, "END"] if waited else (len(sent), answer) == (1, len(PROMPT) + 1)


def test_where_output_is_dropped_the_draining_goes_on(world: World):
    async def main(api, text):
        for _ in range(FULL):
            await api.call("session", "send", "x" * 500_000, "wait")
        _, run = await opened(api, max_tokens=30)
        return json.dumps(len((await drained(api, run, send=True)).tokens))

    world.gateway.consumes = False
    world.start(main, on_full="drop")
    world.run(world.ended)

    assert world.log()[-1].text == "30"
    assert [event.kind for event in world.log()[-2:]] == ["gap", "return"]


def test_a_piece_that_finds_room_behind_others_is_written_after_them_and_told_later(world: World):
    world.start(forever)
    world.run(lambda: "p1" in world.runner.processes and world.runner.processes["p1"].state == "running")
    process = world.runner.processes["p1"]
    process.usage.spend_output(0)
    process.usage._spent_until = world.wires.now + 1.0
    told: list[str] = []
    for piece in ("a", "b"):
        assert not process.forward_text(piece, lambda piece=piece: told.append(piece))
        assert told == []
        world.wires.now += 2.0  # the rate allows it again, and no timer has gone off

    world.run(0.1)

    assert messages(world) == told == ["a", "b"]
    process.kill(Terminated("enough"))


def test_a_draining_whose_context_and_engine_go_ends(world: World):
    async def main(api, text):
        context, run = await opened(api, max_tokens=400)
        pending = await api.call("generation", "[method]run.drain", run, None)
        await api.wait("futures.done", await api.call("clocks", "sleep", 100_000_000))
        api.drop(context)
        return json.dumps(await code_of(api.wait("generation.pending-rest", pending)))

    world.start(main)
    world.run(0.05)
    world.engine.paused = True
    world.run(0.04)
    world.wires.cut.add("engine")
    world.run(0.1)
    world.wires.kill("engine")
    world.run(world.ended)

    assert world.log()[-1].text in ('"closed"', '"engine_lost"')


@pytest.mark.parametrize("way", ["drain", "take", "compute"])
def test_an_engines_death_ends_the_sleep(world: World, way: str):
    async def main(api, text):
        context, run = await opened(api, max_tokens=400, window=1)
        if way == "drain":
            code = await code_of(drained(api, run, send=True))
        elif way == "compute":
            while (code := await code_of(api.call("forward", "compute", context, pass_(tokens=[1])))) == "none":
                pass
        else:
            while (code := await code_of(api.call("generation", "[method]run.take", run))) == "none":
                pass
        return json.dumps(code)

    world.start(main)
    world.run(0.2)
    world.engine.paused = True
    world.run(0.1)
    world.wires.kill("engine")
    world.run(world.ended)

    assert world.log()[-1].text == '"engine_lost"'


@pytest.mark.parametrize("way", ["drain", "drain to the client", "take", "compute"])
def test_a_kill_frees_who_sleeps(world: World, way: str):
    async def main(api, text):
        context, run = await opened(api, max_tokens=400)
        if way.startswith("drain"):
            if way != "drain":
                for _ in range(FULL):
                    await api.call("session", "send", "x" * 500_000, "wait")
            await drained(api, run, send=way != "drain")
        while way == "compute":
            await api.call("forward", "compute", context, pass_(tokens=[1], draws=[draw([0])]))
        while True:
            await api.call("generation", "[method]run.take", run)

    world.gateway.consumes = False
    world.start(main)
    world.run(lambda: world.engine.contexts == 1)
    world.engine.paused = True
    world.run(0.2)
    (process,) = world.runner.processes.values()
    process.kill(Terminated("enough"))
    world.engine.paused = False
    world.gateway.credit("p1")
    world.run(1.0)

    assert world.log()[-1].error.code == "terminated"
    assert world.engine.contexts == 0
    assert world.engine.pages_owned == 0
    assert len(process.waitables) == 0


def test_a_pass_computed_in_one_call_is_the_pass(world: World):
    async def main(api, text):
        fields = {"tokens": [7, 8], "draws": [draw([1], WARM, seed=3)], "probes": [probe(0, "entropy")]}
        first, second = await context_of(api, PROMPT), await context_of(api, PROMPT)
        one = await output_of(api, first, **fields)
        other = await api.call("forward", "compute", second, pass_(**fields))
        wrong = await code_of(api.call("forward", "compute", second, pass_(tokens=[-1])))
        return json.dumps([one == other, first.tokens == second.tokens, wrong])

    assert program(world, main) == [True, True, "bad_request"]
