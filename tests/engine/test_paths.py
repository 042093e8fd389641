"""Stream and lockstep give the same: tokens, answers of probes, and the context afterwards, for every combination of a
run's options, whatever happens to the run on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from pie_engine.limits import Limits
from pie_engine.models import byte_tokenizer
from pie_engine.runs.drafting import DraftedDevice
from pie_engine.runs.grammar_compiler import GrammarCompiler
from pie_engine.simulation.simulated import SimulatedDevice
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.runner import Slot

VOCAB = byte_tokenizer.VOCAB
PAGE = 4
HABIT = 12
ROOMY = 512
GRAMMARS = (
    None,
    wire.Grammar("regex", "(ab|ba|c+d){9,20}"),
    wire.Grammar("regex", "([a-f]{2} ){3,}"),
    wire.Grammar("json-schema", '{"type": "array", "minItems": 6, "items": {"enum": [1, 22, true]}}'),
)


@dataclass(frozen=True)
class Case:
    """A run's options, and what a program does while it reads."""

    prompt: Sequence[int]
    sampler: wire.SamplerSpec
    seed: int
    stop: Sequence[int]
    most: int
    window: int
    grammar: wire.Grammar | None
    speculation: wire.Speculation
    probes: Sequence[wire.Output]
    script: Sequence[tuple[str, int]]
    pages: int
    rows: int


@dataclass
class Reading:
    """What a program has got."""

    tokens: list[int] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    reason: str = ""


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    tokenizer = byte_tokenizer.files()["tokenizer.json"]
    made = GrammarCompiler(tokenizer, VOCAB, byte_tokenizer.EOS_IDS, lambda: None)
    for spec in GRAMMARS:
        assert spec is None or made.compile(spec).done.wait(60)
    yield made
    made.close()


def samplers() -> st.SearchStrategy[wire.SamplerSpec]:
    return st.builds(
        wire.SamplerSpec,
        temperature=st.sampled_from([0.0, 1.0, 0.7]),
        top_p=st.sampled_from([1.0, 0.9]),
        top_k=st.sampled_from([0, 20]),
        min_p=st.sampled_from([0.0, 0.05]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        frequency_penalty=st.sampled_from([0.0, 0.8]),
        bias_ids=st.just([97, 98]),
        bias=st.sampled_from([[0.0, 0.0], [3.0, 5.0]]),
        mask=st.sampled_from([None, [0, 200, 50, 9]]),
        min_tokens=st.sampled_from([0, 3]),
    )


def cases() -> st.SearchStrategy[Case]:
    actions = st.tuples(
        st.sampled_from(["step", "step", "take", "take", "fork", "save", "pause", "resume"]), st.integers(1, 9)
    )
    return st.builds(
        Case,
        prompt=st.lists(st.sampled_from(list(b"abcd ")), min_size=1, max_size=23),
        sampler=samplers(),
        seed=st.integers(0, 3),
        stop=st.sampled_from([[], [100], [256, 258], list(range(60, 90))]),
        most=st.integers(3, 40),
        window=st.sampled_from([1, 2, 5, 40]),
        grammar=st.sampled_from(GRAMMARS),
        speculation=st.builds(wire.Speculation, ngram=st.integers(0, 2), drafts=st.integers(1, 8), model=st.booleans()),
        probes=st.sampled_from(
            [[], [wire.Output(0, "top", top=2)], [wire.Output(0, "entropy"), wire.Output(0, "logprobs", ids=[5, 97])]]
        ),
        script=st.lists(actions, min_size=5, max_size=20).map(lambda script: [("step", 4), *script]),
        pages=st.sampled_from([30, 40, ROOMY]),
        rows=st.sampled_from([7, 2048]),
    )


def lockstep(bench: Any, grammars: GrammarCompiler, case: Case, *, most: int) -> Reading:
    """The run as a program would do it that decides every token itself, one pass each."""
    context = bench.create(list(case.prompt))
    constraint = grammars.start(grammars.compile(case.grammar)) if case.grammar is not None else None
    stop = [*case.stop, *(sorted(grammars.eos) if constraint is not None else ())]
    reading, fed = Reading(), []
    while not reading.reason:
        spec = case.sampler
        if constraint is not None:
            allowed = constraint.masks([])[0].bits()
            if spec.mask is not None:
                both = np.unpackbits(allowed.view(np.uint8), bitorder="little")
                both[200:250] = 0
                allowed = np.packbits(both, bitorder="little").view(np.uint32)
            spec = msgspec.structs.replace(spec, mask=allowed.tobytes())
        drawn = wire.Output(0, "token", spec, case.seed, start=len(case.prompt), stop=stop)
        number = bench.send(wire.Forward(context, 0, fed, [drawn, *case.probes]))
        bench.settle()
        if number in bench.runner.failed:
            reading.reason = "error"
            break
        token, *slots = bench.runner.outputs[number]
        if token.token in stop:
            reading.reason = "stop"
            break
        fed = [token.token]
        reading.tokens.append(token.token)
        reading.slots += slots
        if constraint is not None:
            constraint.take(token.token)
            if constraint.finished:
                reading.reason = "stop"
                break
        if len(reading.tokens) >= most:
            reading.reason = "length"
    return reading


def make_bench(bench_type: Any, grammars: GrammarCompiler, pages: int, rows: int) -> Any:
    device = SimulatedDevice(pages, PAGE, VOCAB, habit=HABIT)
    draft = SimulatedDevice(pages, PAGE, VOCAB, habit=1 << 60)
    limits = Limits(
        pages, PAGE, 4096, VOCAB, max_rows=rows, draft_model=True, page_bytes=device.page_bytes, swap_pages=pages // 2
    )
    return bench_type(DraftedDevice(device, draft, scratch_page=pages), limits, grammars)


def continued(bench: Any, context: int, generation: int = 0) -> list[int]:
    """What a plain run gives from here: it shows which tokens a context has."""
    run = bench.open_run(context, 6, generation=generation)
    bench.settle()
    bench.send(wire.CloseRun(context, run, 0))
    return bench.runner.tokens[run]


def open_case(stream, context: int, case) -> int:
    """The case's run, in stream mode."""
    return stream.open_run(
        context,
        case.most,
        window=case.window,
        stop=list(case.stop),
        sampler=case.sampler,
        seed=case.seed,
        speculation=case.speculation,
        probes=list(case.probes),
        grammar=case.grammar,
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_stream_gives_what_lockstep_gives(bench, grammars, case):
    plain = make_bench(type(bench), grammars, ROOMY, 2048)
    expected = lockstep(plain, grammars, case, most=case.most)
    stream = make_bench(type(bench), grammars, case.pages, case.rows)
    others = [stream.open_run(stream.create([1 + i] * 20), 30) for i in range(3)]

    context = stream.create(list(case.prompt))
    run = open_case(stream, context, case)
    consumed, forks, saves = 0, {}, {}
    for action, count in case.script:
        have = len(stream.runner.tokens.get(run, []))
        match action:
            case "step":
                for _ in range(count):
                    stream.step()
            case "take":
                consumed = min(have, consumed + count)
                stream.send(wire.Consume(context, run, consumed))
            case "fork":
                stream.contexts += 1
                forks[stream.contexts] = consumed
                stream.send(wire.Fork(stream.contexts, context, 0, len(case.prompt) + consumed, "p"))
            case "save":
                saves[stream.send(wire.Export(context, 0, length=len(case.prompt) + consumed))] = consumed
            case _:
                stream.send((wire.PauseRun if action == "pause" else wire.ResumeRun)(context, run))
        got = stream.runner.tokens.get(run, [])
        assert got == expected.tokens[: len(got)]
        assert len(got) - consumed <= case.window
    # Cancelled where the program has got to.
    stream.send(wire.CloseRun(context, run, consumed))
    stream.settle(5000)
    got = stream.runner.tokens.get(run, [])
    assert got == expected.tokens[: len(got)]
    width = len(case.probes)
    assert stream.runner.probes.get(run, []) == expected.slots[: len(got) * width]
    reason = stream.runner.ends[run].reason
    event(f"{min(len(got), 10)} tokens, {reason}")
    assert reason in ("cancelled", expected.reason)
    if reason != "cancelled":
        assert len(got) == len(expected.tokens)
    for number, kept in saves.items():
        stream.contexts += 1
        forks[stream.contexts] = kept
        data = stream.runner.exports[number]
        stream.send(wire.Import(stream.contexts, "p", "local", Account(), 0, len(data)), buffers=data)
    for fork, kept in [*forks.items(), (context, consumed)]:
        known = [*case.prompt, *expected.tokens[:kept]]
        assert continued(stream, fork) == continued(plain, plain.create(known))
    for number in others:
        assert len(stream.runner.tokens[number]) == 30
    assert not stream.runner.failed


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_a_stream_read_to_its_end_is_the_whole_of_lockstep(bench, grammars, case):
    expected = lockstep(make_bench(type(bench), grammars, ROOMY, 2048), grammars, case, most=case.most)
    stream = make_bench(type(bench), grammars, case.pages, case.rows)
    context = stream.create(list(case.prompt))
    run = open_case(stream, context, case)
    while run not in stream.runner.ends:
        stream.settle(5000)
        stream.send(wire.Consume(context, run, len(stream.runner.tokens.get(run, []))))
    assert stream.runner.tokens.get(run, []) == expected.tokens
    assert stream.runner.probes.get(run, []) == expected.slots
    assert stream.runner.ends[run].reason == expected.reason
