"""What a method keeps and how it changes logits, against transformers' processors of the same name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pie_engine.passes.distribution import edited_logits, exact_distribution
from pie_engine.passes.outputs import Bias, History, Sampler
from transformers.generation import logits_process as theirs

pytestmark = pytest.mark.usefixtures("one_thread")

TRUNCATIONS = [
    (Sampler(1.0, top_k=7), [theirs.TopKLogitsWarper(7)]),
    (Sampler(1.0, top_p=0.8), [theirs.TopPLogitsWarper(0.8)]),
    (Sampler(1.0, min_p=0.07), [theirs.MinPLogitsWarper(0.07)]),
    (Sampler(1.0, typical_p=0.7), [theirs.TypicalLogitsWarper(0.7)]),
    (
        Sampler(0.8, top_p=0.9, top_k=40, min_p=0.02, typical_p=0.9),
        [
            theirs.TemperatureLogitsWarper(0.8),
            theirs.TopKLogitsWarper(40),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.02),
            theirs.TypicalLogitsWarper(0.9),
        ],
    ),
]


@pytest.mark.parametrize(("sampler", "processors"), TRUNCATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_truncations_are_those_of_transformers(sampler, processors, seed):
    row = torch.randn(1, 400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    scores = row
    for processor in processors:
        scores = processor(torch.zeros(1, 1, dtype=torch.long), scores)
    assert np.allclose(exact_distribution(row[0].numpy(), sampler), scores[0].softmax(-1).numpy(), atol=1e-12)


def test_repetition_is_that_of_transformers():
    row = torch.randn(1, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = [3, 9, 3, 40]
    processor = theirs.RepetitionPenaltyLogitsProcessor(1.7)
    history = History(np.array(seen, dtype=np.int32), 2)
    ours = edited_logits(row[0].numpy(), Sampler(repetition_penalty=1.7), history)
    assert np.allclose(ours, processor(torch.tensor([seen]), row.clone())[0].numpy())


def test_bias_is_that_of_transformers():
    row = torch.randn(1, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    processor = theirs.SequenceBiasLogitsProcessor([[[4], 2.0], [[11], -3.5]])
    bias = Bias(np.array([4, 11], dtype=np.int32), np.array([2.0, -3.5], dtype=np.float32))
    ours = edited_logits(row[0].numpy(), Sampler(bias=bias))
    assert np.allclose(ours, processor(torch.tensor([[1, 2]]), row.clone())[0].numpy())


def test_presence_and_frequency_count_generated_tokens_only():
    row = np.zeros(10)
    history = History(np.array([1, 1, 2, 2, 2, 3], dtype=np.int32), 2)
    ours = edited_logits(row, Sampler(presence_penalty=0.5, frequency_penalty=0.25), history)
    assert ours.tolist() == [0.0, 0.0, -1.25, -0.75, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
