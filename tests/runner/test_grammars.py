"""Grammars for programs that choose tokens themselves, compiled by the real process."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from pie_runner.grammars.compiler import CHECKER, MAX_CACHED, MAX_WAITING, GrammarCompiler
from pie_runner.grammars.matcher import Grammar as Compiled
from pie_runner.limits import MAX_MATCHERS, Usage
from pie_runner.models import Model, load_model
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_wire.errors import BadRequest, LimitExceeded, Overloaded, PieError, TooLarge, Unavailable, Unsupported
from pie_wire.grammar_check import CheckingProcess
from pie_wire.messages.common import ModelFacts
from pie_wire.messages.engine import Grammar
from runner_programs import context_of, output_of, probe
from runner_world import VOCAB, World


@pytest.fixture(scope="module")
def checking():
    made = CheckingProcess(CHECKER)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(model_files):
    return load_model(ModelFacts("tiny", VOCAB, 512, 16, eos=[256]), model_files)


class Later:
    """An Offload whose work runs when the test says so."""

    def __init__(self) -> None:
        self.work = []

    def __call__(self, work, then) -> None:
        self.work.append((work, then))

    def run(self):
        work, self.work = self.work, []
        for call, then in work:
            try:
                result, error = call(), None
            except Exception as exc:  # noqa: BLE001 - as a worker thread would
                result, error = None, exc
            then(result, error)


def compiled(model, checking, kind, text):
    """A matcher at the beginning, or the error."""
    later, got = Later(), []
    GrammarCompiler(later, checking).compile(model, Grammar(kind, text), lambda *answer: got.append(answer), "local")
    later.run()
    [(matcher, error)] = got
    if error is not None:
        raise error
    return Compiled(matcher, model.tokenizer).matcher(Usage(ProcessLimits(), lambda: 0.0))


def allowed(matcher) -> set[int]:
    bits = np.unpackbits(np.frombuffer(matcher.mask(), dtype=np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def ids(model, text):
    return model.tokenizer.encode(text)


@pytest.mark.parametrize(
    ("kind", "text", "whole"),
    [
        ("regex", "ab*c", "abbc"),
        ("json-schema", '{"enum": [12]}', "12"),
        ("lark", 'start: "x" "y"', "xy"),
        ("ebnf", 'root ::= "x" [0-9]', "x7"),
    ],
)
def test_kinds_of_grammars(model, checking, kind, text, whole):
    matcher = compiled(model, checking, kind, text)

    for token in ids(model, whole):
        assert token in allowed(matcher)
        assert not matcher.complete
        matcher.accept([token])
    assert matcher.complete
    assert 256 in allowed(matcher)


def test_a_matcher_goes_back_and_apart(model, checking):
    matcher = compiled(model, checking, "regex", "(ab|cd)+")
    start = allowed(matcher)
    matcher.accept(ids(model, "ab"))
    other = matcher.fork()
    other.accept(ids(model, "c"))

    assert matcher.complete
    assert not other.complete
    assert other.forced == ids(model, "d")
    other.rollback(3)
    assert allowed(other) == start
    matcher.reset()
    assert allowed(matcher) == start
    with pytest.raises(BadRequest, match="0 accepted"):
        matcher.rollback(1)


def test_tokens_that_may_not_follow_are_refused_and_those_before_them_stand(model, checking):
    matcher = compiled(model, checking, "regex", "abc")

    with pytest.raises(BadRequest, match="number 2"):
        matcher.accept(ids(model, "abx"))
    with pytest.raises(BadRequest, match="vocabulary"):
        matcher.accept([VOCAB])
    matcher.accept(ids(model, "c"))
    assert matcher.complete
    assert matcher.terminated
    assert allowed(matcher) == {256}


def test_an_end_token_terminates(model, checking):
    matcher = compiled(model, checking, "regex", "a*")
    matcher.accept([256])

    assert matcher.terminated
    with pytest.raises(BadRequest):
        matcher.accept(ids(model, "a"))
    matcher.rollback(1)
    assert not matcher.terminated


@pytest.mark.parametrize(
    ("kind", "text"), [("regex", "(("), ("json-schema", "{"), ("lark", "start: undefined_rule"), ("ebnf", "no rules")]
)
def test_what_is_no_grammar_says_why(model, checking, kind, text):
    with pytest.raises(BadRequest, match=f"the {kind} grammar cannot be compiled: ."):
        compiled(model, checking, kind, text)


def test_a_grammar_that_takes_too_long_is_stopped_and_the_next_one_works(model):
    impatient = CheckingProcess(CHECKER, seconds=0.0)
    impatient._seconds = -30.0
    try:
        with pytest.raises(TooLarge, match="simplify"):
            compiled(model, impatient, "regex", "a")
        impatient._seconds = 5.0
        assert not compiled(model, impatient, "regex", "a").complete
    finally:
        impatient.close()
    assert impatient.pid is None


def test_a_grammar_that_breaks_its_compiler_hurts_nobody(model, checking):
    deep = "start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1}' for i in range(30_000)) + '\nr30000: "b"'

    with pytest.raises((TooLarge, BadRequest)):
        compiled(model, checking, "lark", deep[:250_000])
    assert compiled(model, checking, "regex", "a").mask()


def test_a_killed_process_is_replaced(model, checking):
    compiled(model, checking, "regex", "x")
    os.kill(checking.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while checking._child.poll() is None and time.monotonic() < end:
        time.sleep(0.01)

    assert compiled(model, checking, "regex", "xy").forced


def test_what_is_known_is_answered_at_once_and_forgotten_in_time(model, checking):
    later, got = Later(), []
    compiler = GrammarCompiler(later, checking)
    note = lambda *answer: got.append(answer)  # noqa: E731
    compiler.compile(model, Grammar("regex", "k+"), note, "local")
    forget = compiler.compile(model, Grammar("regex", "k+"), lambda *_: got.append("forgotten"), "local")
    forget()
    assert len(later.work) == 1
    later.run()
    compiler.compile(model, Grammar("regex", "k+"), note, "local")
    compiler.compile(model, Grammar("regex", "(("), note, "local")
    later.run()
    compiler.compile(model, Grammar("regex", "(("), note, "local")

    assert not later.work
    assert [type(error) for _, error in got] == [type(None), type(None), BadRequest, BadRequest]
    assert got[0][0] is got[1][0]
    for i in range(MAX_CACHED + 1):
        compiler.compile(model, Grammar("regex", f"{i}"), note, "local")
        later.run()
    compiler.compile(model, Grammar("regex", "k+"), note, "local")
    assert len(later.work) == 1


def test_the_queue_is_bounded(model, checking):
    compiler = GrammarCompiler(Later(), checking)
    for i in range(MAX_WAITING // 2):
        compiler.compile(model, Grammar("regex", f"{i}"), lambda *_: None, "local")

    with pytest.raises(Overloaded, match="tenant local"):
        compiler.compile(model, Grammar("regex", "one more"), lambda *_: None, "local")
    with pytest.raises(TooLarge):
        compiler.compile(model, Grammar("regex", "x" * 300_000), lambda *_: None, "local")


def test_a_tenant_with_many_grammars_leaves_room_and_turns_to_others(model, checking):
    later, got = Later(), []
    compiler = GrammarCompiler(later, checking)
    for i in range(MAX_WAITING // 2):
        compiler.compile(model, Grammar("regex", f"{i}"), lambda *_: got.append("hog"), "hog")
    compiler.compile(model, Grammar("regex", "a"), lambda *_: got.append("other"), "other")
    for _ in range(3):
        later.run()

    assert got == ["hog", "hog", "other"]


def test_a_grammar_that_another_tenant_waits_for_is_compiled_in_the_turn_that_comes_first(model, checking):
    later, got = Later(), []
    compiler = GrammarCompiler(later, checking)
    asked = [("hog", f"{i}") for i in range(MAX_WAITING // 2 - 1)] + [("hog", "a"), ("other", "a")]
    for tenant, text in asked:
        then = partial(lambda who, matcher, _: got.append((who, matcher)), (tenant, text))
        compiler.compile(model, Grammar("regex", text), then, tenant)
    for _ in range(3):
        later.run()
    assert [who for who, _ in got] == [("hog", "0"), ("hog", "1"), ("hog", "a"), ("other", "a")]
    assert got[2][1] is got[3][1] is not None

    while later.work:
        later.run()

    assert sorted(who for who, _ in got) == sorted(asked)
    assert compiler._under_way.taken == 0


def test_what_was_compiled_for_another_takes_no_turn(model, checking):
    later, got = Later(), []
    compiler = GrammarCompiler(later, checking)
    shared = ["s1", "s2", "s3"]
    asked = [("hog", text) for text in [*shared, "h1", "h2"]] + [("other", text) for text in [*shared[::-1], "mine"]]
    for tenant, text in asked:
        then = partial(lambda text, *_: got.append(text), text)
        compiler.compile(model, Grammar("regex", text), then, tenant)
    turns = 0
    while later.work:
        later.run()
        turns += 1

    assert turns == len(set(asked)) - len(shared)
    assert got.index("mine") < got.index("h2")


def test_who_has_no_share_left_still_waits_for_what_another_asked_for(model, checking):
    later, got = Later(), []
    compiler = GrammarCompiler(later, checking)
    compiler.compile(model, Grammar("regex", "a"), lambda *_: None, "other")
    while compiler._under_way.take("hog"):
        pass

    compiler.compile(model, Grammar("regex", "a"), lambda matcher, _: got.append(matcher), "hog")
    with pytest.raises(Overloaded):
        compiler.compile(model, Grammar("regex", "b"), lambda *_: None, "hog")
    later.run()

    assert got[0] is not None


def test_a_tokenizer_that_cannot_be_followed_is_unsupported(model, checking):
    mute = Model(model.facts, model.tokenizer, None, model.vocabulary, None)

    with pytest.raises(Unsupported, match="tiny"):
        compiled(mute, checking, "regex", "a")


def test_matchers_are_limited():
    usage = Usage(ProcessLimits(), lambda: 0.0)
    for _ in range(MAX_MATCHERS):
        usage.hold_matcher()

    with pytest.raises(LimitExceeded):
        usage.hold_matcher()
    usage.drop_matcher()
    usage.hold_matcher()


async def constrained(api, text):
    """Digits by a mask of the program's own, on logits in the host."""
    context = await context_of(api, [1, 2, 3])
    model = await api.call("model", "[static]model.load", "")
    source = SimpleNamespace(kind="regex", text="[0-9]{3}")
    grammar = await api.call("grammar", "[static]grammar.compile", model, source)
    matcher = await api.call("grammar", "[method]grammar.matcher", grammar)
    chosen = []
    while not await api.call("grammar", "[method]matcher.terminated", matcher):
        output = await output_of(api, context, probes=[probe(0, "resident")])
        row = output.probes[0].value
        await api.call("logits", "[method]logits.mask", row, await api.call("grammar", "[method]matcher.mask", matcher))
        token = await api.call("logits", "[method]logits.argmax", row)
        api.drop(row)
        matcher.is_slow = True  # the next mask is computed beside the loop
        await api.call("grammar", "[method]matcher.accept", matcher, [token])
        await api.call("context", "[method]context.append", context, [token])
        chosen.append(token)
    try:
        await api.call("grammar", "[method]matcher.accept", matcher, [5] * 100)
    except CallError as exc:
        code = exc.code
    return json.dumps([chosen, code, context.owner.usage.matchers])


def test_a_program_follows_a_grammar_by_itself(world: World, model):
    event = world.outcome(constrained)
    world.runner.facilities.grammars.close()
    assert event.error is None, event.error
    chosen, code, held = json.loads(event.text)

    assert model.tokenizer.decode(chosen, skip_special=False).isdigit()
    assert (len(chosen), code, held) == (3, "bad_request", 1)


def test_a_program_killed_while_its_grammar_is_compiled_leaves_nothing(world: World):
    world.hold_offloads = True
    world.start(constrained)
    world.run(lambda: bool(world.offloads))
    process = world.runner.processes["p1"]
    process.kill(BadRequest("no more"))
    world.hold_offloads = False
    world.run(0.2)
    world.runner.facilities.grammars.close()

    assert process.state == "ended"
    assert process.usage.matchers == 0


def test_base64_of_a_mask_is_what_samplers_take(model, checking):
    matcher = compiled(model, checking, "regex", "a")

    assert len(base64.b64decode(base64.b64encode(matcher.mask()))) == -(-VOCAB // 32) * 4


def test_closing_ends_a_compilation_at_once(model):
    closed = CheckingProcess(CHECKER)
    failures = []

    def ask() -> None:
        try:
            closed.check(model.vocabulary, Grammar("regex", "a"))
        except PieError as exc:
            failures.append(exc)

    asking = threading.Thread(target=ask)
    asking.start()
    while closed.pid is None:
        time.sleep(0.001)
    closed.close()
    asking.join(5.0)

    assert not asking.is_alive()
    assert closed.pid is None
    with pytest.raises(Unavailable):
        closed.check(model.vocabulary, Grammar("regex", "a"))
