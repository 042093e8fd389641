"""The sampler against the plain definition by full sort, and its independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pie_engine.batch import Sampler
from pie_engine.kernels.sampler import are_numbers, exact_distribution, most_likely, sample

DRAWS = 20_000


def logits(rows: int, vocab: int, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(1.0),
        Sampler(0.5),
        Sampler(1.0, top_k=3),
        Sampler(1.0, top_p=0.8),
        Sampler(0.7, top_p=0.9, top_k=20),
        Sampler(1.0, top_p=1e-6),
        Sampler(1.3, top_k=10_000),
    ],
)
def test_draws_follow_the_exact_distribution(sampler):
    row = logits(1, 300, 2.0)
    many = [Sampler(sampler.temperature, sampler.top_p, sampler.top_k, seed) for seed in range(DRAWS)]
    drawn = sample(row.expand(DRAWS, -1), many, [7] * DRAWS)
    expected = exact_distribution(row[0], sampler)
    assert expected[drawn].min() > 0, "a token outside of the nucleus was drawn"
    distance = 0.5 * np.abs(np.bincount(drawn, minlength=300) / DRAWS - expected).sum()
    # The expected distance of an exact sampler with this many draws, three times over.
    assert distance < 3 * np.sqrt(expected * (1 - expected) / DRAWS).sum() / 2 + 1e-9


def test_nucleus_wider_than_the_first_candidates_is_exact():
    """A flat distribution: the nucleus has thousands of tokens, none but those may come, the last of them can."""
    row = logits(1, 20_000, 0.3)
    sampler = Sampler(1.0, top_p=0.7)
    nucleus = set(np.flatnonzero(exact_distribution(row[0], sampler)).tolist())
    assert len(nucleus) > 4096
    drawn = sample(row.expand(200, -1), [Sampler(1.0, 0.7, 0, seed) for seed in range(200)], [1] * 200)
    assert set(drawn) <= nucleus
    order = row[0].argsort(descending=True)
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(20_000))
    assert ranks[drawn].max() > 0.9 * len(nucleus)


def test_a_row_does_not_depend_on_its_batch():
    rows = logits(24, 5000).bfloat16()
    kinds = [
        Sampler(),
        Sampler(1.0),
        Sampler(0.8, 0.9),
        Sampler(1.0, 1.0, 40),
        Sampler(2.0, 0.99),
        Sampler(1.0, 0.5, 500),
    ]
    samplers = [Sampler(k.temperature, k.top_p, k.top_k, i) for i, k in enumerate(kinds * 4)]
    positions = list(range(24))
    together = sample(rows, samplers, positions)
    alone = [sample(rows[i : i + 1], [samplers[i]], [positions[i]])[0] for i in range(24)]
    assert together == alone
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
    mixed = sample(rows[order], [samplers[i] for i in order], [positions[i] for i in order])
    assert mixed == [together[i] for i in order]


def test_greedy_is_the_argmax():
    rows = logits(8, 1000)
    assert sample(rows, [Sampler()] * 8, [0] * 8) == rows.argmax(-1).tolist()


def test_seed_and_position_decide():
    row = logits(1, 1000, 1.0)
    again = [sample(row, [Sampler(1.0, seed=4)], [9])[0] for _ in range(3)]
    assert len(set(again)) == 1
    assert len({sample(row, [Sampler(1.0, seed=s)], [9])[0] for s in range(20)}) > 5
    assert len({sample(row, [Sampler(1.0, seed=4)], [p])[0] for p in range(20)}) > 5


def test_rows_that_are_no_numbers_are_known():
    rows = torch.zeros(5, 10)
    rows[0, 3], rows[1, 3], rows[2], rows[3, 3] = float("nan"), float("inf"), float("-inf"), float("-inf")
    assert are_numbers(rows) == [False, False, False, True, True]


def test_impossible_tokens_are_never_drawn():
    row = torch.full((1, 700), float("-inf"))
    row[0, [3, 650]] = torch.tensor([0.0, 1.0])
    drawn = sample(row.expand(500, -1), [Sampler(1.0, seed=s) for s in range(500)], [0] * 500)
    assert set(drawn) == {3, 650}


def test_most_likely_gives_probabilities():
    ids, probabilities = most_likely(torch.tensor([0.0, 2.0, 1.0]), 2)
    assert ids == [1, 2]
    assert probabilities == pytest.approx([0.6652, 0.2447], abs=1e-3)
