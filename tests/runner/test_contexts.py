"""Contexts and runs over the real engine core: the runner's token list is what the program consumed, always."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pie_engine.passes.outputs import Sampler
from pie_engine.simulation.simulated import next_token
from pie_runner.contexts import Context
from pie_runner.passes import Shape
from pie_runner.probes import Probe
from pie_runner.process import Process
from pie_runner.runs import Run, RunSpec
from pie_runner.wasm.hostcall import Ok
from pie_wire.errors import BadRequest, Closed, DeviceError, PieError, TooLarge
from pie_wire.messages.engine import Output, SamplerSpec
from runner_programs import forever
from runner_world import MAX_CONTEXT, VOCAB, World

GREEDY = Sampler(0.0, 1.0, 0, 0)


def run_spec(max_tokens=8, window=4, stop=(), probes=()):
    return RunSpec(SamplerSpec(), 0, stop, max_tokens, window, probes=probes)


@pytest.fixture
def process(world: World) -> Process:
    world.start(forever)
    world.run(lambda: "p1" in world.runner.processes and world.runner.processes["p1"].state == "running")
    return world.runner.processes["p1"]


def make(world: World, process: Process) -> Context:
    return Context.create(world.runner.engines.session(process, "tiny"), process)


def consume(world: World, run: Run):
    world.run(lambda: run.ready)
    return run.next()


def greedy(tokens, count):
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(next_token(tokens, GREEDY, len(tokens), VOCAB))
    return tokens


def engine_tokens(world: World, context: Context) -> list[int]:
    """What the engine holds for a context once everything has arrived."""
    world.run(0.1)
    found = [c for c in world.engine.core._table.contexts if c.id == context.id]
    return list(found[0].tokens[: found[0].guest_length])


def test_a_run_yields_the_engines_tokens_one_a_step(world, process):
    context = make(world, process)
    context.append([1, 2, 3])
    run = context.open_run(run_spec(max_tokens=5))

    steps = [consume(world, run) for _ in range(5)]

    assert [len(step.tokens) for step in steps] == [1] * 5
    assert [step.finish for step in steps] == [None] * 4 + ["length"]
    assert context.tokens == greedy([1, 2, 3], 5)
    assert engine_tokens(world, context) == context.tokens
    assert run.next().finish == "length"


@pytest.mark.parametrize("window", [1, 2, 32])
def test_a_stop_id_ends_the_run_as_a_step_of_its_own(world, process, window):
    context = make(world, process)
    context.append([1, 2, 3])
    stop = greedy([1, 2, 3], 4)[-1]
    run = context.open_run(run_spec(max_tokens=10, window=window, stop=[stop]))

    steps = [consume(world, run) for _ in range(4)]

    assert [(len(step.tokens), step.finish) for step in steps] == [(1, None), (1, None), (1, None), (0, "stop")]
    assert context.tokens == greedy([1, 2, 3], 3)
    assert engine_tokens(world, context) == context.tokens


def test_closing_a_run_keeps_what_was_consumed(world, process):
    context = make(world, process)
    context.append([5])
    run = context.open_run(run_spec(max_tokens=50, window=16))
    consume(world, run)
    consume(world, run)
    world.run(0.3)

    run.close()

    assert engine_tokens(world, context) == greedy([5], 2)
    assert world.engine.core._table.active == {}
    with pytest.raises(Closed):
        run.next()


def test_an_append_closes_the_run(world, process):
    context = make(world, process)
    context.append([5])
    run = context.open_run(run_spec(max_tokens=50))
    consume(world, run)

    context.append([9])
    second = context.open_run(run_spec(max_tokens=1))

    assert consume(world, second).tokens == [greedy([*greedy([5], 1), 9], 1)[-1]]
    with pytest.raises(Closed):
        run.next()


def test_a_fork_acts_at_the_consumed_point_and_the_run_goes_on(world, process):
    context = make(world, process)
    context.append([5, 6])
    run = context.open_run(run_spec(max_tokens=6, window=6))
    consume(world, run)
    world.run(0.2)

    child = context.fork()
    rest = [consume(world, run) for _ in range(5)]

    assert engine_tokens(world, child) == greedy([5, 6], 1)
    assert rest[-1].finish == "length"
    assert context.tokens == greedy([5, 6], 6)


def test_a_run_ends_with_the_models_context(world, process):
    context = make(world, process)
    context.append([1] * (MAX_CONTEXT - 2))
    run = context.open_run(run_spec(max_tokens=None))

    finishes = [consume(world, run).finish for _ in range(2)]

    assert finishes == [None, "context-full"]
    with pytest.raises(TooLarge):
        context.open_run(run_spec())
    with pytest.raises(TooLarge):
        context.append([1])


def test_what_the_runner_can_judge_is_refused_at_once(world, process):
    context = make(world, process)
    with pytest.raises(BadRequest):
        context.open_run(run_spec())
    with pytest.raises(BadRequest):
        context.truncate(1)
    context.close()
    with pytest.raises(Closed):
        context.append([1])


def test_a_failed_pass_leaves_the_context_as_it_was(world, process):
    context = make(world, process)
    context.append([1, 2])
    world.engine.fails = RuntimeError("no such device")
    output = context.forward([3, 4], [Output(1)], Shape([1], []))
    later = context.flush()
    context.append([9])

    world.run(lambda: output.ready and later.ready)

    assert output.get().error.code == "device_error"
    assert later.get().error.code == "device_error"
    assert context.tokens == [1, 2]
    context.append([7])
    done = context.flush()
    world.run(lambda: done.ready)
    assert done.get() == Ok(None)
    assert engine_tokens(world, context) == [1, 2, 7]


def test_a_device_failure_ends_a_run_with_its_error(world, process):
    context = make(world, process)
    context.append([1, 2])
    run = context.open_run(run_spec(max_tokens=20, window=4))
    first = consume(world, run)
    world.run(0.2)
    world.engine.fails = RuntimeError("gone")

    def consume_all():
        for _ in range(20):
            consume(world, run)

    with pytest.raises(DeviceError):
        consume_all()

    assert context.tokens == greedy([1, 2], len(context.tokens) - 2)
    assert first.tokens == [context.tokens[2]]
    assert engine_tokens(world, context) == context.tokens
    again = context.open_run(run_spec(max_tokens=1))
    assert consume(world, again).finish == "length"


def test_an_engines_death_ends_every_wait_with_engine_lost(world, process):
    context = make(world, process)
    context.append([1, 2])
    run = context.open_run(run_spec(max_tokens=500))
    consume(world, run)
    world.run(0.2)
    buffered = len(run._buffer)
    world.engine.paused = True
    flush = context.flush()
    output = make(world, process).forward([1], [], Shape([], []))

    world.wires.kill("engine")
    world.run(0.1)

    assert flush.get().error.code == "engine_lost"
    assert output.get().error.code == "engine_lost"
    for _ in range(buffered):
        run.next()
    with pytest.raises(PieError) as caught:
        run.next()
    assert caught.value.code == "engine_lost"
    with pytest.raises(PieError):
        context.append([1])
    assert context.fork().dead is not None
    context.close()
    assert process.state == "running"


def test_a_new_engine_under_the_same_name_serves_again(world, process):
    make(world, process)
    world.wires.kill("engine")
    world.engines.clear()
    world.run(0.1)
    with pytest.raises(PieError) as caught:
        make(world, process)
    assert caught.value.code == "engine_lost"
    assert caught.value.retryable

    world.add_engine("engine")
    world.run(1.0)

    context = make(world, process)
    context.append([1])
    assert consume(world, context.open_run(run_spec(max_tokens=1))).finish == "length"


class Oracle:
    """A context as a plain list."""

    def __init__(self, context: Context, tokens: list[int]) -> None:
        self.context = context
        self.tokens = tokens
        self.run: Run | None = None


ops = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("append", "truncate", "fork", "open", "consume", "consume", "close", "flush", "pass", "drop", "turn"),
                *("probing", "verify", "pause"),
            ]
        ),
        st.integers(0, 7),
        st.integers(1, 20),
    ),
    max_size=40,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ops, st.integers(1, 9))
def test_whatever_a_program_does_its_context_is_what_it_consumed(model_files, steps, window):
    world = World(model_files)
    world.add_engine(pages=512)
    world.start(forever)
    world.run(lambda: world.runner.engines.names() == ["tiny"] and "p1" in world.runner.processes)
    world.run(lambda: world.runner.processes["p1"].state == "running")
    process = world.runner.processes["p1"]
    live = [Oracle(make(world, process), [])]
    for op, which, size in steps:
        if not live:
            live.append(Oracle(make(world, process), []))
        one = live[which % len(live)]
        match op:
            case "append" if len(one.tokens) + size < 100:
                one.context.append(list(range(size)))
                one.tokens += range(size)
                one.run = None
            case "truncate":
                keep = min(size, len(one.tokens))
                one.context.truncate(keep)
                del one.tokens[keep:]
                one.run = None
            case "fork" if len(live) < 6:
                live.append(Oracle(one.context.fork(), list(one.tokens)))
            case "open" if one.tokens:
                one.run = one.context.open_run(run_spec(max_tokens=size, window=window))
            case "probing" if one.tokens:
                asked = (Probe("resident", Output(0, "logits")), Probe("entropy", Output(0, "entropy")))
                one.run = one.context.open_run(run_spec(max_tokens=size, window=window, probes=asked))
            case "pause" if one.run is not None:
                one.run.pause()
                world.turn()
                one.run.resume()
            case "verify" if one.tokens:
                right = greedy(one.tokens, size % 4 + 1)[len(one.tokens) :]
                guesses = [*right[:-1], (right[-1] + 1) % VOCAB]
                parents = list(range(-1, len(guesses) - 1))
                pending = one.context.verify(guesses, parents, Output(0, "token"))
                world.run(lambda pending=pending: pending.ready)
                assert pending.get().value.tokens == [right]
                one.tokens += right[:-1]
                one.run = None
            case "consume" if one.run is not None:
                step = consume(world, one.run)
                for probe in step.probes:
                    if probe.tag == "resident":
                        assert probe.value.row.argmax() == step.tokens[0]
                        probe.value.close()
                one.tokens = greedy(one.tokens, len(step.tokens))
            case "close" if one.run is not None:
                one.run.close()
                one.run = None
            case "flush":
                one.context.flush()
            case "pass" if one.tokens or size > 3:
                tokens = list(range(size % 3))
                if one.tokens or tokens:
                    one.context.forward(tokens, [], Shape([], []))
                    one.tokens += tokens
                    one.run = None
            case "drop":
                one.context.close()
                live.remove(one)
            case "turn":
                world.turn()
            case _:
                pass
        for each in live:
            assert each.context.tokens == each.tokens
    world.run(0.5)
    for each in live:
        assert engine_tokens(world, each.context) == each.tokens
        each.context.close()
    world.run(0.2)
    assert process.usage.rows == 0
    assert world.engine.pages_owned == 0
    assert world.engine.contexts == 0
