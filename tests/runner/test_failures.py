"""What a session does with an engine's refusals, with the engine's answers written by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from pie_runner.contexts import Context
from pie_runner.engine_session import MAX_OPS_WEIGHT, MAX_UNACKED_OPS, REPORT_EVERY, Session
from pie_runner.limits import Usage
from pie_runner.passes import Shape
from pie_runner.process_limits import ProcessLimits
from pie_runner.runs import RunSpec
from pie_runner.waitables import Waitables
from pie_wire.codec import encode_body
from pie_wire.errors import EngineLost, ErrorInfo, PieError
from pie_wire.messages.common import Account, ModelFacts
from pie_wire.messages.engine import Append, CloseRun, Consume, Create, Drop, Output, SamplerSpec
from pie_wire.messages.runner import ForwardDone, OpFailure, RunEnd, Slot, Step

OOM = ErrorInfo("out_of_memory", "no pages", scope="context")
SKIPPED = ErrorInfo("skipped", "skipped", scope="context", cause="out_of_memory")


@pytest.fixture
def sent():
    return []


@pytest.fixture
def session(sent) -> Session:
    hub = SimpleNamespace(send=lambda peer, message: sent.append(message), now=0.0)
    hub.clock = lambda: hub.now
    model = SimpleNamespace(facts=ModelFacts("m", 100, 1000))
    return Session(hub, SimpleNamespace(), model, itertools.count(1))


@pytest.fixture
def owner():
    scope = SimpleNamespace(tenant="local", user="local")
    usage = Usage(ProcessLimits(), lambda: 0.0)
    return SimpleNamespace(pid="p", scope=scope, account=Account(), waitables=Waitables(), contexts={}, usage=usage)


@pytest.fixture
def context(session, owner) -> Context:
    made = Context.create(session, owner)
    made.append([1, 2])
    session.on_step(Step(acked=session.last_op), [])
    return made


def run_spec(max_tokens=3):
    return RunSpec(SamplerSpec(), 0, [], max_tokens, 4, None)


def failed(context, *ops, generation=1, error=OOM):
    return [OpFailure(op, context.id, generation, error if i == 0 else SKIPPED) for i, op in enumerate(ops)]


def test_a_failed_append_is_taken_back_and_raised_at_the_next_wait(session, context):
    context.append([3])
    bad = session.last_op
    session.on_step(Step(acked=bad, failed=failed(context, bad)), [])

    assert context.tokens == [1, 2]
    assert context.generation == 1
    done = context.flush()
    assert done.get().error.code == "out_of_memory"
    assert context.flush().get() is None  # told once; the context lives on


def test_everything_after_the_failure_is_taken_back_too(session, context):
    context.append([3])
    bad = session.last_op
    context.truncate(1)
    context.append([4, 5])
    flush = context.flush()
    session.on_step(Step(acked=bad + 3, failed=failed(context, bad, bad + 1, bad + 2, bad + 3)), [])

    assert context.tokens == [1, 2]
    assert flush.get().error.code == "out_of_memory"
    assert context.take_fault() is None


def test_skips_that_arrive_later_carry_the_cause_and_are_told_once(session, context):
    context.append([3])
    bad = session.last_op
    flush = context.flush()
    session.on_step(Step(acked=bad, failed=failed(context, bad)), [])
    assert context.fault is not None

    session.on_step(Step(acked=bad + 1, failed=failed(context, bad + 1, error=SKIPPED)), [])

    assert flush.get().error.code == "out_of_memory"
    assert context.fault is None


def test_while_an_error_waits_to_be_raised_nothing_is_added(session, context, sent):
    context.append([3])
    session.on_step(Step(acked=session.last_op, failed=failed(context, session.last_op)), [])
    before = session.last_op
    context.append([9])
    context.truncate(0)
    child = context.fork()

    assert context.tokens == [1, 2]
    assert session.last_op == before
    assert child.dead is not None
    run = context.open_run(run_spec())
    with pytest.raises(PieError) as caught:
        run.next()
    assert caught.value.code == "out_of_memory"
    context.append([9])
    assert context.tokens == [1, 2, 9]


def test_what_was_applied_before_a_failure_stays(session, context):
    context.append([3])
    flush = context.flush()
    number = session.last_op
    session.on_step(Step(acked=0, failed=failed(context, number)), [])

    assert context.tokens == [1, 2, 3]
    assert flush.get().error.code == "out_of_memory"


def test_a_failed_create_is_dead_for_good_and_so_are_its_forks(session, owner):
    context = Context.create(session, owner)
    number = session.last_op
    context.append([1])
    child = context.fork()
    failures = [
        *failed(context, number, number + 1),
        OpFailure(number + 2, child.id, 1, SKIPPED),
    ]
    session.on_step(Step(acked=number + 2, failed=failures), [])

    for one in (context, child, context.fork(), child.fork()):
        with pytest.raises(PieError):
            one.append([1])
        assert one.flush().get() is not None
    context.close()
    context.close()
    assert context not in owner.contexts


def test_consumption_is_reported_once_a_turn_and_closing_says_the_count(session, context, sent):
    run = context.open_run(run_spec(max_tokens=10))
    session.flush()
    sent.clear()
    session.on_step(Step(acked=session.last_op, runs=[run.number], counts=[3], tokens=[7, 8, 9]), [])
    run.next()
    run.next()
    session.flush()
    session.flush()
    run.close()
    run.close()
    session.flush()

    assert [op for message in sent for op in message.ops] == [
        Consume(context.id, run.number, 2),
        CloseRun(context.id, run.number, 2),
    ]
    assert context.tokens == [1, 2, 7, 8]


def test_consumption_is_reported_when_the_window_needs_it_or_after_a_while(session, context, sent):
    run = context.open_run(RunSpec(SamplerSpec(), 0, [], 100, 32, None))
    session.on_step(Step(acked=session.last_op, runs=[run.number], counts=[40], tokens=[7] * 40), [])

    def reported(steps: int, after: float = 0.0) -> list[object]:
        sent.clear()
        session._hub.now += after
        for _ in range(steps):
            run.next()
        session.flush()
        session.flush()
        return [op for message in sent for op in message.ops]

    assert Consume(context.id, run.number, 1) in reported(1)
    assert reported(7) == []
    assert reported(1) == [Consume(context.id, run.number, 9)]
    assert reported(2) == []
    assert reported(0, REPORT_EVERY) == [Consume(context.id, run.number, 11)]
    assert reported(1) == []
    context.append([5])
    assert [op for op in reported(0) if isinstance(op, CloseRun)] == [CloseRun(context.id, run.number, 12)]


def test_tokens_of_a_closed_run_are_ignored_and_waste_is_counted(session, context):
    run = context.open_run(run_spec(max_tokens=10))
    run.close()
    end = RunEnd(run.number, "cancelled", wasted=4)
    session.on_step(Step(acked=0, runs=[run.number], counts=[2], tokens=[7, 8], ends=[end]), [])

    assert context.tokens == [1, 2]
    assert session.wasted == 4


def test_a_run_refused_while_opening_is_not_closed_there(session, context, sent):
    run = context.open_run(run_spec())
    opening = session.last_op
    session.flush()
    session.on_step(Step(acked=opening, failed=failed(context, opening)), [])
    sent.clear()
    with pytest.raises(PieError):
        run.next()
    run.close()
    session.flush()

    assert sent == []
    assert context.run is None


def test_an_engine_that_ends_a_run_early_has_a_smaller_context(session, context):
    run = context.open_run(run_spec(max_tokens=10))
    step = Step(acked=0, runs=[run.number], counts=[1], tokens=[7], ends=[RunEnd(run.number, "length")])
    session.on_step(step, [])

    assert run.next().finish is None
    assert run.next().finish == "context-full"


def test_operations_travel_in_one_message_with_dense_numbers(session, context, sent):
    context.append([3])
    context.append([4])
    session.flush()
    context.close()
    session.flush()

    assert [(message.first, len(message.ops)) for message in sent] == [(1, 4), (5, 1)]
    assert isinstance(sent[0].ops[0], Create)
    assert isinstance(sent[1].ops[0], Drop)


def test_many_large_passes_in_one_turn_are_messages_that_can_be_sent(sent, session, owner):
    output = Output(1 << 31, "token", SamplerSpec(0.7, 0.9, 1 << 31), 1 << 62)

    for _ in range(400):
        made = Context.create(session, owner)
        made.append([1])
        made.forward([], [output] * 1024, Shape([], []))
    session.flush()

    assert len(sent) > 1
    assert sum(len(message.ops) for message in sent) == 1200
    for message in sent:
        encode_body(message)


def test_a_huge_batch_is_split(session, owner, sent):
    session.model.facts = ModelFacts("m", 100, 10 * MAX_OPS_WEIGHT)
    context = Context.create(session, owner)
    for _ in range(3):
        context.append([1] * (MAX_OPS_WEIGHT // 2))
    session.flush()

    assert len(sent) > 1
    assert [message.first for message in sent] == [
        1,
        *itertools.accumulate((len(m.ops) for m in sent[:-1]), initial=1),
    ][1:]
    assert sum(isinstance(op, Append) for message in sent for op in message.ops) == 3


def test_a_flood_is_noticed_and_ends_with_the_acknowledgement(session, context):
    for _ in range(MAX_UNACKED_OPS // 2 + 1):
        context.append([3])
        context.truncate(2)
    acknowledged = []
    session.after_ack(session.last_op, lambda: acknowledged.append(True))
    assert session.is_flooded

    session.on_step(Step(acked=session.last_op), [])

    assert not session.is_flooded
    assert acknowledged == [True]
    assert not context.has_unsettled


def test_the_end_of_a_session_answers_everybody(session, context):
    flush = context.flush()
    output = context.forward([4], [], Shape([], []))
    called = []
    session.after_ack(session.last_op, lambda: called.append(True))
    session.end(EngineLost("gone"))

    assert flush.get().error.code == "engine_lost"
    assert output.get().error.code == "engine_lost"
    assert called == [True]
    assert session.contexts == {}
    context.close()
    with pytest.raises(EngineLost):
        Context.create(session, context.owner)


def test_an_answer_that_does_not_fit_is_an_error_not_a_crash(session, context):
    output = context.forward([4], [], Shape([1], []))
    number = session.last_op
    session.on_step(Step(number, outputs=[ForwardDone(number, [Slot("logits", buffer=3)])]), [])

    assert output.get().error.code == "internal"
