"""Probes of logits, against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pie_engine.kernels import probes
from pie_engine.kernels.probes import RowProbes, most_likely, probe
from pie_engine.passes.device import Entropy, LogProbs, TopK, Vector
from pie_engine.passes.outputs import EntropyProbe, LogitsProbe, LogProbsProbe, TopKProbe


def test_most_likely_gives_probabilities():
    ids, probabilities = most_likely(torch.tensor([0.0, 2.0, 1.0]), 2)
    assert ids == [1, 2]
    assert probabilities == pytest.approx([0.6652, 0.2447], abs=1e-3)


def test_most_likely_orders_equals_by_id():
    assert most_likely(torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0]), 3)[0] == [1, 4, 0]


def test_probes_give_what_plain_arithmetic_gives():
    row = torch.randn(500, generator=torch.Generator().manual_seed(3)) * 4
    row[7] = float("-inf")
    exact = row.double().softmax(-1)
    logprobs = probe(row, LogProbsProbe((3, 7, 3, 499)))
    assert isinstance(logprobs, LogProbs)
    assert logprobs.values == pytest.approx(exact.log()[[3, 7, 3, 499]].tolist())
    entropy = probe(row, EntropyProbe())
    assert isinstance(entropy, Entropy)
    assert entropy.nats == pytest.approx(float(torch.special.entr(exact).sum()))
    top = probe(row, TopKProbe(5))
    assert isinstance(top, TopK)
    assert top.ids == tuple(row.topk(5).indices.tolist())
    assert top.probabilities == pytest.approx(exact.topk(5).values.tolist())
    raw = probe(row.bfloat16(), LogitsProbe())
    assert isinstance(raw, Vector)
    assert np.array_equal(raw.values, row.bfloat16().float().numpy())


def test_what_is_asked_twice_of_a_row_is_computed_once(monkeypatch):
    sums = []
    log_sum = probes._log_sum
    monkeypatch.setattr(probes, "_log_sum", lambda row: sums.append(1) or log_sum(row))
    row = torch.randn(50, generator=torch.Generator().manual_seed(3))
    asked = RowProbes(row)
    for spec in (EntropyProbe(), TopKProbe(5), LogProbsProbe((1, 2))):
        first = asked.answer(spec)
        assert asked.answer(spec) is first
        assert probe(row, spec) == first
    assert len(sums) == 1 + 3
