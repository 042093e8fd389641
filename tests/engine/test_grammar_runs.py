"""Runs that follow a grammar, over a device that knows nothing of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from pie_engine.limits import Limits
from pie_engine.models import byte_tokenizer
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.simulation.simulated import SimulatedDevice
from pie_wire.messages import engine as wire

VOCAB = byte_tokenizer.VOCAB
PATTERN = "(ab|cd){4}x{3}"
LOOKUP = wire.Speculation(ngram=2, drafts=6)


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    tokenizer = byte_tokenizer.files()["tokenizer.json"]
    made = GrammarCompiler(tokenizer, VOCAB, byte_tokenizer.EOS_IDS, lambda: None)
    yield made
    made.close()


@pytest.fixture
def constrained(bench, grammars) -> Callable:
    """Make a bench that follows grammars of bytes."""

    def make(**limits: float):
        device = SimulatedDevice(256, 4, VOCAB, habit=8)
        return type(bench)(device, Limits(256, 4, 4096, VOCAB, **limits), grammars)  # type: ignore[arg-type]

    return make


def ready(grammars: GrammarCompiler, kind: str, text: str) -> wire.Grammar:
    spec = wire.Grammar(kind, text)  # type: ignore[arg-type]
    assert grammars.compile(spec).done.wait(60)
    return spec


@pytest.mark.parametrize("sampler", [wire.SamplerSpec(), wire.SamplerSpec(1.0), wire.SamplerSpec(1.0, 0.9, 20)])
@pytest.mark.parametrize("speculation", [wire.Speculation(), LOOKUP])
def test_a_run_spells_what_the_grammar_allows_and_stops_when_it_is_complete(
    constrained, grammars, sampler, speculation
):
    bench = constrained()
    spec = ready(grammars, "regex", PATTERN)
    for seed in range(4):
        context = bench.create(list(b"abcd, cdcd: "))
        run = bench.open_run(context, 100, sampler=sampler, seed=seed, grammar=spec, speculation=speculation)
        bench.settle()
        assert re.fullmatch(PATTERN, bytes(bench.runner.tokens[run]).decode())
        assert bench.runner.ends[run].reason == "stop"


def test_json_of_a_schema_can_be_read(constrained, grammars):
    bench = constrained()
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}}, "required": ["ok"]}
    schema |= {"additionalProperties": False, "x-guidance": {"whitespace_flexible": False}}
    spec = ready(grammars, "json-schema", json.dumps(schema))
    for seed in range(5):
        run = bench.open_run(bench.create([1]), 60, sampler=wire.SamplerSpec(1.0), seed=seed, grammar=spec)
        bench.settle()
        assert set(json.loads(bytes(bench.runner.tokens[run]))) <= {"ok", "n"}


def test_an_end_token_ends_the_run_where_the_grammar_may_end(constrained, grammars):
    bench = constrained()
    spec = ready(grammars, "regex", "a*")
    bias = wire.SamplerSpec(bias_ids=[byte_tokenizer.EOS_IDS[0]], bias=[1e9])
    run = bench.open_run(bench.create([1]), 60, sampler=bias, grammar=spec)
    bench.settle()
    assert run not in bench.runner.tokens
    assert bench.runner.ends[run].reason == "stop"


def test_min_tokens_keeps_the_end_away(constrained, grammars):
    bench = constrained()
    spec = ready(grammars, "regex", "a*")
    eager = wire.SamplerSpec(bias_ids=[byte_tokenizer.EOS_IDS[0]], bias=[1e9], min_tokens=5)
    run = bench.open_run(bench.create([1]), 60, sampler=eager, grammar=spec)
    bench.settle()
    assert bytes(bench.runner.tokens[run]) == b"aaaaa"


@pytest.mark.parametrize("kept", [0, 3, 7])
def test_cancel_leaves_no_trace_of_the_grammar(constrained, grammars, kept):
    bench = constrained()
    spec = ready(grammars, "regex", PATTERN)
    context, other = bench.create(list(b"abab")), bench.create(list(b"abab"))
    whole = bench.open_run(other, 50, grammar=spec)
    run = bench.open_run(context, 50, grammar=spec, speculation=LOOKUP)
    bench.settle()
    tokens = bench.runner.tokens[run]
    assert tokens == bench.runner.tokens[whole]
    bench.send(wire.CloseRun(context, run, kept))
    bench.send(wire.CloseRun(other, whole, kept))
    free = [bench.open_run(each, 9) for each in (context, other)]
    bench.settle()
    assert bench.runner.tokens[free[0]] == bench.runner.tokens[free[1]]
    for each, number in zip((context, other), free, strict=True):
        bench.send(wire.CloseRun(each, number, 0))
    again = bench.open_run(context, 50, grammar=spec)
    bench.settle()
    assert re.fullmatch(PATTERN, bytes(bench.runner.tokens[again]).decode())


def test_a_grammar_that_cannot_be_compiled_fails_the_run_alone(constrained, grammars):
    bench = constrained()
    wrong = ready(grammars, "regex", "(")
    context = bench.create([1, 2, 3])
    run = bench.open_run(context, 9, grammar=wrong)
    bench.settle()
    end = bench.runner.ends[run]
    assert end.reason == "error"
    assert end.error is not None
    assert end.error.code == "bad_request"
    bench.send(wire.CloseRun(context, run, 0))
    again = bench.open_run(context, 4)
    bench.settle()
    assert len(bench.runner.tokens[again]) == 4
    assert not bench.runner.failed


def test_a_run_waits_for_its_grammar_and_can_be_closed_meanwhile(constrained, grammars):
    bench = constrained()
    context = bench.create([1, 2, 3])
    run = bench.open_run(context, 9, grammar=wire.Grammar("regex", "(never|seen|before){3}"))
    bench.send(wire.CloseRun(context, run, 0), wire.Drop(context))
    bench.settle()
    assert bench.runner.ends[run].reason == "cancelled"
    assert bench.owned() == 0


def test_grammar_and_mask_of_the_program_both_hold(constrained, grammars):
    bench = constrained()
    spec = ready(grammars, "regex", "[a-z]{6}")
    only = wire.SamplerSpec(1.0, mask=[ord("k"), 3, VOCAB - ord("k") - 3])
    run = bench.open_run(bench.create([1]), 60, sampler=only, grammar=spec)
    bench.settle()
    assert re.fullmatch("[klm]{6}", bytes(bench.runner.tokens[run]).decode())


def test_a_grammar_that_leaves_nothing_to_draw_fails_the_run(constrained, grammars):
    bench = constrained()
    spec = ready(grammars, "regex", "[a-z]{6}")
    none = wire.SamplerSpec(mask=[0, 5, VOCAB - 5])
    run = bench.open_run(bench.create([1]), 60, sampler=none, grammar=spec)
    bench.settle()
    assert bench.runner.ends[run].reason == "error"
