"""Sampling as programs ask for it, through the wire, in runs and passes alike; bad input harms nothing."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from pie_engine.contexts.asking import make_sampler
from pie_engine.passes.outputs import History
from pie_engine.passes.token_masks import allowed, read_mask
from pie_engine.simulation.simulated import next_token
from pie_wire.errors import BadField
from pie_wire.messages import engine as wire

VOCAB = 97
PROMPT = [(31 + 7 * i) % VOCAB for i in range(9)]
STOP = [3, 4, 5]

SPECS = {
    "penalties": wire.SamplerSpec(0.8, repetition_penalty=1.4, presence_penalty=0.6, frequency_penalty=0.3),
    "greedy penalties": wire.SamplerSpec(repetition_penalty=9.0),
    "bias": wire.SamplerSpec(1.0, bias_ids=[7, 8], bias=[400.0, -inf]),
    "mask as runs": wire.SamplerSpec(1.0, mask=[10, 20, 30, 37]),
    "mask as bits": wire.SamplerSpec(1.0, mask=b"\x00\xff\x0f" + bytes(13)),
    "truncations": wire.SamplerSpec(1.1, 0.9, 40, 0.01, 0.9),
    "min tokens": wire.SamplerSpec(1.0, mask=[2, 5, 90], min_tokens=6),
}


def expected(spec: wire.SamplerSpec, count: int, seed: int) -> list[int]:
    """What a model without pages, batches or runs would give, one token after the other."""
    known = list(PROMPT)
    while len(known) < len(PROMPT) + count:
        early = len(known) - len(PROMPT) < spec.min_tokens
        sampler = make_sampler(spec, seed, VOCAB, STOP if early else ())
        history = History(np.array(known, dtype=np.int32), len(PROMPT))
        token = next_token(known, sampler, len(known), VOCAB, history=history)
        if token in STOP:
            break
        known.append(token)
    return known[len(PROMPT) :]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("ngram", [0, 2])
def test_runs_and_passes_draw_the_same(bench, name, ngram):
    spec = SPECS[name]
    context = bench.create(PROMPT)
    run = bench.open_run(
        context, 12, sampler=spec, seed=5, stop=STOP, **({"speculation": wire.Speculation(ngram)} if ngram else {})
    )
    bench.settle()
    ran = bench.runner.tokens.get(run, [])
    assert ran == expected(spec, 12, 5)

    stepping = bench.create(PROMPT)
    stepped: list[int] = []
    fed: list[int] = []
    while len(stepped) < 12:
        output = wire.Output(0, "token", spec, 5, start=len(PROMPT), stop=STOP)
        number = bench.send(wire.Forward(stepping, 0, fed, [output]))
        bench.settle()
        token = bench.runner.outputs[number][0].token
        if token in STOP:
            break
        stepped.append(token)
        fed = [token]
    assert stepped == ran


def test_one_row_answers_everything_in_order(bench):
    context = bench.create(PROMPT)
    outputs = [
        wire.Output(0, "entropy"),
        wire.Output(0, "token", SPECS["bias"], 3),
        wire.Output(0, "logprobs", ids=[1, 2, 1]),
        wire.Output(1, "hidden"),
        wire.Output(0, "token"),
        wire.Output(1, "top", top=3),
        wire.Output(0, "logits"),
    ]
    number = bench.send(wire.Forward(context, 0, [11, 12], outputs))
    bench.settle()
    slots = bench.runner.outputs[number]
    assert [slot.kind for slot in slots] == [output.kind for output in outputs]
    assert slots[1].token == 7
    assert slots[2].values[0] == slots[2].values[2] != slots[2].values[1]
    raw = np.frombuffer(bench.runner.buffers[number][slots[6].buffer], dtype="<f4")
    assert int(raw.argmax()) == slots[4].token
    logprobs = raw - np.log(np.exp(raw.astype(np.float64)).sum())
    assert slots[2].values == pytest.approx(logprobs[[1, 2, 1]].tolist())
    assert slots[0].values == pytest.approx([-(np.exp(logprobs) * logprobs).sum()])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": nan}, "bad_field"),
    ({"temperature": -0.1}, "bad_field"),
    ({"top_p": nan}, "bad_field"),
    ({"typical_p": 0.0}, "bad_field"),
    ({"min_p": 1.5}, "bad_field"),
    ({"min_p": nan}, "bad_field"),
    ({"top_k": -1}, "bad_field"),
    ({"min_tokens": -1}, "bad_field"),
    ({"repetition_penalty": 0.0}, "bad_field"),
    ({"repetition_penalty": inf}, "bad_field"),
    ({"repetition_penalty": 1e38}, "bad_field"),
    ({"presence_penalty": nan}, "bad_field"),
    ({"frequency_penalty": 1e300}, "bad_field"),
    ({"bias_ids": [1]}, "bad_field"),
    ({"bias_ids": [97], "bias": [1.0]}, "bad_field"),
    ({"bias_ids": [1, 1], "bias": [1.0, 2.0]}, "bad_field"),
    ({"bias_ids": [1], "bias": [nan]}, "bad_field"),
    ({"bias_ids": [1], "bias": [inf]}, "bad_field"),
    ({"bias_ids": list(range(2000)), "bias": [0.0] * 2000}, "too_large"),
    ({"mask": bytes(16)}, "bad_field"),
    ({"mask": b"\x01" * 13}, "bad_field"),
    ({"mask": b""}, "bad_field"),
    ({"mask": bytes(12) + b"\x00\xff\xff\xff"}, "bad_field"),
    ({"mask": [97]}, "bad_field"),
    ({"mask": [0, 96]}, "bad_field"),
    ({"mask": [-1, 98]}, "bad_field"),
    ({"mask": []}, "bad_field"),
]


@pytest.mark.parametrize(("fields", "code"), BAD)
def test_bad_samplers_are_refused_and_harm_nothing(bench, fields, code):
    context = bench.create(PROMPT)
    spec = wire.SamplerSpec(**fields)
    run = bench.send(wire.OpenRun(context, 0, 9, spec, 0, [], 5, 5))
    bench.settle()
    number = bench.send(wire.Forward(context, 1, [1], [wire.Output(0, "token", spec)]))
    bench.settle()
    assert bench.runner.failed[run].code == bench.runner.failed[number].code == code
    assert_unharmed(bench, context, 2)


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (wire.Output(0, "logprobs"), "bad_field"),
        (wire.Output(0, "logprobs", ids=[97]), "bad_field"),
        (wire.Output(0, "logprobs", ids=[1] * 2000), "bad_field"),
        (wire.Output(0, start=11), "bad_field"),
        (wire.Output(0, start=-1), "bad_field"),
        (wire.Output(0, stop=[97]), "bad_field"),
        (wire.Output(0, stop=[1] * 2000), "too_large"),
        (wire.Output(0, "top", top=98), "bad_field"),
        (wire.Output(1, "entropy"), "bad_field"),
    ],
)
def test_bad_outputs_are_refused_and_harm_nothing(bench, output, code):
    context = bench.create(PROMPT)
    number = bench.send(wire.Forward(context, 0, [1], [output]))
    bench.settle()
    assert bench.runner.failed[number].code == code
    assert_unharmed(bench, context, 1)


def test_a_sampler_that_leaves_nothing_fails_its_request_alone(bench):
    context = bench.create(PROMPT)
    nothing = wire.SamplerSpec(1.0, mask=[3, 2, 92], min_tokens=2)
    failed = bench.send(
        wire.Forward(context, 0, [1], [wire.Output(0), wire.Output(0, "token", nothing, start=9, stop=STOP)])
    )
    other = bench.open_run(bench.create(PROMPT), 4)
    bench.settle()
    assert bench.runner.failed[failed].code == "bad_request"
    assert len(bench.runner.tokens[other]) == 4
    assert_unharmed(bench, context, 1)
    starved = bench.open_run(context, 4, sampler=nothing, stop=STOP, generation=1)
    bench.settle()
    assert bench.runner.ends[starved].error.code == "bad_request"


def assert_unharmed(bench: Any, context: int, generation: int) -> None:
    number = bench.send(wire.Forward(context, generation, [], [wire.Output(0)]))
    bench.settle()
    assert bench.runner.outputs[number][0].token == next_token(
        PROMPT, make_sampler(wire.SamplerSpec(), 0, VOCAB), 9, VOCAB
    )


def test_masks_have_one_form_inside():
    runs = [3, 2, 0, 30, 62]
    flags = np.repeat([False, True, False, True, False], runs)
    packed = np.packbits(np.pad(flags, (0, 128 - VOCAB)), bitorder="little").tobytes()
    assert np.array_equal(allowed(read_mask(runs, VOCAB).bits(), VOCAB), flags)
    assert np.array_equal(read_mask(packed, VOCAB).bits(), read_mask(runs, VOCAB).bits())
    with pytest.raises(BadField, match="16 bytes"):
        read_mask(packed[:-1], VOCAB)
