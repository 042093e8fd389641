"""Page operations over the real engine core: what the runner says of a context is what the engine has."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pie_engine.contexts.context import Context as EngineContext
from pie_runner.contexts import Context
from pie_runner.layout import Layout
from pie_runner.process import Process
from pie_runner.runs import RunSpec
from pie_runner.wasm.hostcall import Err, Ok
from pie_wire.errors import BadRequest, PieError
from pie_wire.messages.engine import AdapterUse, Output, SamplerSpec, Unpin
from runner_programs import forever
from runner_world import PAGE, World

RUN = RunSpec(SamplerSpec(), 0, (), 100, 8, None)


@pytest.fixture
def process(world: World) -> Process:
    world.start(forever)
    world.run(lambda: "p1" in world.runner.processes and world.runner.processes["p1"].state == "running")
    return world.runner.processes["p1"]


def make(world: World, process: Process, tokens: int = 0) -> Context:
    context = Context.create(world.runner.engines.session(process, "tiny"), process)
    context.append(list(range(tokens)))
    return context


def settled(world: World, context: Context) -> EngineContext:
    """The engine's side, once everything has arrived; checks that the two agree."""
    world.run(0.2)
    found = next(c for c in world.engine.core._table.contexts if c.id == context.id)
    layout = context.layout
    assert list(found.tokens[: found.guest_length]) == context.tokens
    assert (found.committed, found.reserved) == (layout.committed, layout.reserved)
    assert tuple(tuple(part) for part in found.lineage.dropped) == layout.dropped
    if found.kv_length == len(context.tokens):
        assert len(found.pages) - found.holes == layout.pages(len(context.tokens), PAGE)
    world.engine.core.check_integrity()
    return found


def answer(world: World, done) -> object:
    world.run(lambda: done.ready)
    return done.get()


def test_dropped_tokens_free_pages_and_stay_in_the_list(world, process):
    context = make(world, process, 70)

    assert answer(world, context.drop_tokens(10, 50)) == Ok(None)

    assert settled(world, context).holes == 2
    assert context.tokens == list(range(70))
    assert not context.layout.is_plain
    with pytest.raises(BadRequest, match="dropped"):
        context.truncate(30)
    context.truncate(10)
    assert context.layout.is_plain
    settled(world, context)


def test_pages_are_reserved_committed_and_released(world, process):
    context = make(world, process, 40)
    context.reserve(1)
    assert answer(world, context.commit(2)) == Ok(None)

    assert context.layout == Layout(committed=2, reserved=2)
    with pytest.raises(BadRequest, match="committed"):
        context.truncate(31)
    context.append([1] * 20)
    context.release(1)
    settled(world, context)
    assert len(context.tokens) == 48
    with pytest.raises(BadRequest, match="working"):
        context.commit(2)


def test_growing_beyond_the_room_is_taken_back_and_told_at_the_next_wait(world, process):
    context = make(world, process, 10)
    context.reserve(1)
    context.append([1] * 60)

    failed = answer(world, context.flush())

    assert isinstance(failed, Err)
    assert failed.error.code == "out_of_memory"
    assert context.tokens == list(range(10))
    assert context.layout == Layout(reserved=2)
    settled(world, context)


def test_a_refused_operation_and_all_behind_it_leave_no_trace(world, process):
    context = make(world, process, 40)
    context.reserve(1)
    settled(world, context)
    context.set_adapters([AdapterUse("nobody")])
    done = context.drop_tokens(0, 20)
    context.release(1)
    last = context.commit(1)

    first, second = answer(world, done), answer(world, last)

    assert isinstance(first, Err)
    assert isinstance(second, Err)
    assert (first.error.code, second.error.code) == ("not_found", "not_found")
    assert context.tokens == list(range(40))
    assert context.layout == Layout(reserved=4)
    settled(world, context)


def test_a_fork_behind_a_refused_operation_is_dead_of_its_cause(world, process):
    context = make(world, process, 20)
    context.set_adapters([AdapterUse("nobody")])
    fork = context.fork()

    failed = answer(world, fork.flush())

    assert isinstance(failed, Err)
    assert failed.error.code == "not_found"
    assert answer(world, fork.fork().flush()) == failed


@pytest.mark.parametrize("call", [lambda c: c.drop_tokens(0, 5), lambda c: c.commit(1), lambda c: c.release(1)])
def test_they_close_an_open_run(world, process, call):
    context = make(world, process, 20)
    run = context.open_run(RUN)
    world.run(lambda: run.ready)
    run.next()

    call(context)

    assert context.run is None
    settled(world, context)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.drop_tokens(5, 5),
        lambda c: c.drop_tokens(0, 20),
        lambda c: c.reserve(0),
        lambda c: c.commit(0),
        lambda c: c.commit(2),
        lambda c: c.commit(9),
        lambda c: c.release(9),
        lambda c: c.bid(float("nan")),
        lambda c: c.bid(-1.0),
    ],
)
def test_what_cannot_be_is_refused_at_once_and_harms_nothing(world, process, call):
    context = make(world, process, 20)

    with pytest.raises(BadRequest):
        call(context)

    assert answer(world, context.flush()) == Ok(None)
    settled(world, context)


def test_a_pin_keeps_pages_beyond_its_context(world, process):
    context = make(world, process, 40)
    assert answer(world, context.pin("mine", 60.0)) == Ok(None)

    context.close()
    world.run(0.2)

    assert world.engine.pages_owned == 2
    session = world.runner.engines.session(process, "tiny")
    session.submit(Unpin(process.account, "mine"))
    world.run(0.2)
    assert world.engine.pages_owned == 0


def test_a_pin_acts_at_the_consumed_point_and_the_run_goes_on(world, process):
    context = make(world, process, 20)
    run = context.open_run(RUN)
    for _ in range(15):
        world.run(lambda: run.ready)
        run.next()

    assert answer(world, context.pin("mine", 60.0)) == Ok(None)

    assert len(list(world.engine.core._operations.pins.held())) == 2
    assert context.run is run
    world.run(lambda: run.ready)
    assert len(run.next().tokens) == 1


def test_an_empty_pin_is_refused_by_its_completion(world, process):
    failed = answer(world, make(world, process, 3).pin("mine", 60.0))

    assert isinstance(failed, Err)
    assert failed.error.code == "bad_request"


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.drop_tokens(0, 5),
        lambda c: c.commit(1),
        lambda c: c.pin("mine", 9.0),
        lambda c: c.suspend(),
    ],
)
def test_an_engines_death_ends_every_wait(world, process, call):
    context = make(world, process, 20)
    world.run(0.1)
    world.engine.paused = True
    done = call(context)
    world.run(0.1)

    world.wires.kill("engine")
    world.run(0.1)

    failed = done.get()
    assert isinstance(failed, Err)
    assert failed.error.code == "engine_lost"
    with pytest.raises(PieError):
        call(context)


WORDS = ["append", "append", "truncate", "fork", "drop", "reserve", "commit", "release"]
WORDS += ["run", "next", "suspend", "adapters", "flush", "turn"]


def test_what_is_said_of_a_dead_context_or_beside_a_verification_harms_nothing(world, process):
    context, other = make(world, process, 20), make(world, process, 20)
    context.verify([1, 2], [-1, 0], Output(0))
    context.idle(on=True)
    context.bid(2.0)
    suspended = context.suspend()
    world.run(0.2)
    assert suspended.get() == Ok(None)
    settled(world, context)

    world.wires.kill("engine")
    world.run(0.1)

    for one in (context, other):
        one.idle(on=False)
        one.bid(1.0)
        with pytest.raises(PieError):
            one.suspend()


def test_what_is_sent_after_a_failure_outlives_the_news_of_what_was_skipped_for_it(world, process):
    context = make(world, process, 20)
    world.run(0.2)
    context.set_adapters([AdapterUse("nobody")])
    world.turn()
    context.append([1, 2])
    world.turn()
    assert context.take_fault().code == "not_found"
    context.append([3])
    world.run(0.2)

    assert context.tokens[20:] == [3]
    settled(world, context)


steps = st.lists(
    st.tuples(st.sampled_from(WORDS), st.integers(0, 3), st.integers(1, 60), st.integers(0, 60)), max_size=30
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_runner_and_engine_agree_whatever_is_refused(model_files, plan):
    world = World(model_files)
    world.add_engine(pages=64)
    world.start(forever)
    world.run(lambda: world.runner.engines.names() == ["tiny"] and "p1" in world.runner.processes)
    process = world.runner.processes["p1"]
    contexts = [make(world, process, 20)]
    for word, which, size, other in plan:
        context = contexts[which % len(contexts)]
        try:
            match word:
                case "append" if len(context.tokens) + size < 200:
                    context.append(list(range(size)))
                case "truncate":
                    context.truncate(min(size, len(context.tokens)))
                case "fork" if len(contexts) < 4:
                    contexts.append(context.fork())
                case "drop":
                    context.drop_tokens(min(size, other), max(size, other))
                case "reserve":
                    context.reserve(size % 5)
                case "commit":
                    context.commit(size % 3)
                case "release":
                    context.release(size % 3)
                case "adapters":
                    context.set_adapters([AdapterUse("nobody")])
                case "run" if context.tokens:
                    context.open_run(RUN)
                case "next" if context.run is not None:
                    context.run.next()
                case "suspend":
                    context.suspend()
                case "flush":
                    context.flush()
                case "turn":
                    world.turn()
                case _:
                    pass
        except PieError as exc:
            assert exc.code in ("bad_request", "out_of_memory", "not_found")  # noqa: PT017 - any may come
    world.run(0.2)
    for context in contexts:
        if context.dead is None:
            context.close_run()
            settled(world, context)
    world.runner.processes["p1"].kill(PieError("enough"))
    world.run(0.2)
    assert world.engine.pages_owned == 0
