"""Positions, masks, dropped tokens and exports with a real model's KV, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
from pie_engine.kernels.choice import available_attentions
from pie_engine.limits import Limits
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.transformers_model import load
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.engine import Mask, Output

FIRST = [3 + 7 * i for i in range(21)]
SECOND = [500 + 11 * i for i in range(23)]


@pytest.fixture(scope="module")
def model(smollm2: Path):
    loaded = load(smollm2, available_attentions("cpu")[0], dtype="float32")
    loaded.allocate(64, 16)
    return loaded


@pytest.fixture
def real(model, bench, one_thread):
    info = model.info
    limits = Limits(64, 16, info.max_context, info.vocab_size, page_bytes=model.read_pages((0,)).nbytes)
    return type(bench)(ModelDevice(model), limits)


def top(real, context, tokens, positions=(), mask=None, row=None):
    """The three most likely tokens after a row of a pass, by default the last, and their probabilities."""
    row = len(tokens) - 1 if row is None else row
    outputs = [Output(row, "top", top=3)]
    number = real.send(wire.Forward(context, 0, list(tokens), outputs, list(positions), mask or Mask()))
    real.settle()
    assert number not in real.runner.failed, real.runner.failed[number]
    slot = real.runner.outputs[number][0]
    return dict(zip(slot.ids, slot.probs, strict=True))


def test_hidden_tokens_leave_no_trace(real):
    """Rows that see nothing of what came before, at positions from 0, are a context of their own."""
    alone = top(real, real.create(), SECOND)
    start = len(FIRST)
    mask = Mask("runs", runs=[[start, 1 + i] for i in range(len(SECOND))])
    beside = top(real, real.create(FIRST), SECOND, range(len(SECOND)), mask)
    assert beside == pytest.approx(alone, rel=1e-3)


def test_branches_of_a_tree_are_contexts_of_their_own(real):
    mask = Mask("tree", parents=[-1, -1, 0, 1])
    tokens = [SECOND[0], FIRST[0], SECOND[1], FIRST[1]]
    for row, branch in ((2, SECOND[:2]), (3, FIRST[:2])):
        assert top(real, real.create(FIRST), tokens, (), mask, row) == pytest.approx(
            top(real, real.create(FIRST), branch), rel=1e-3
        )


def test_dropping_is_masking(real):
    """What follows a drop sees what a mask that hides as much shows."""
    forgetful = real.create([*FIRST, *SECOND])
    real.send(wire.Flush(forgetful, 0), wire.DropTokens(forgetful, 0, 4, 37))
    real.settle()
    after = top(real, forgetful, [900, 901])
    last = len(FIRST) + len(SECOND) - 1
    masked = real.create([*FIRST, *SECOND[:-1]])
    runs = [[0, 4, 33, last - 36 + i] for i in range(3)]
    hidden = top(real, masked, [SECOND[-1], 900, 901], (), Mask("runs", runs=runs))
    assert after == pytest.approx(hidden, rel=1e-3)


def test_kv_travels(real):
    context = real.create([*FIRST, *SECOND])
    real.send(wire.DropTokens(context, 0, 4, 37))
    number = real.send(wire.Export(context, 0))
    real.settle()
    buffers = real.runner.exports[number]
    real.contexts += 1
    copy = real.contexts
    real.send(wire.Import(copy, "p", "local", Account(), 0, len(buffers)), buffers=buffers)
    assert top(real, copy, [900]) == pytest.approx(top(real, context, [900]), rel=1e-4)
