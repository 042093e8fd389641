"""The sampler against the plain definition, against transformers' processors, and its independence of the batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pie_engine.kernels import native, torch_sampler
from pie_engine.kernels.native_build import find_compiler
from pie_engine.kernels.native_sampler import SamplerKernel
from pie_engine.passes.distribution import exact_distribution
from pie_engine.passes.outputs import Bias, History, Output, Sampler
from pie_engine.passes.token_masks import read_mask
from pie_wire.config import pie_home
from pie_wire.errors import BadRequest, DeviceError

DRAWS = 10_000

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB = 300
HISTORY = History(np.array([5, 5, 9, 200, 9, 9, 7], dtype=np.int32), 3)
BIAS = Bias(np.array([1, 17], dtype=np.int32), np.array([3.0, -np.inf], dtype=np.float32))

METHODS = {
    "multinomial": Sampler(1.0),
    "cold": Sampler(0.5),
    "top-k": Sampler(1.0, top_k=3),
    "top-p": Sampler(1.0, top_p=0.8),
    "top-k and top-p": Sampler(0.7, top_p=0.9, top_k=20),
    "tiny top-p": Sampler(1.0, top_p=1e-6),
    "wide top-k": Sampler(1.3, top_k=10_000),
    "min-p": Sampler(1.2, min_p=0.1),
    "typical": Sampler(1.0, typical_p=0.6),
    "all truncations": Sampler(1.5, top_p=0.95, top_k=80, min_p=0.01, typical_p=0.9),
    "repetition": Sampler(1.0, repetition_penalty=1.7),
    "presence and frequency": Sampler(1.0, presence_penalty=0.7, frequency_penalty=-0.4),
    "bias": Sampler(1.0, top_p=0.9, bias=BIAS),
    "mask": Sampler(1.0, top_k=30, mask=read_mask([10, 40, 200, 50], VOCAB)),
    "everything": Sampler(
        0.9,
        0.97,
        90,
        min_p=0.001,
        typical_p=0.95,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        bias=BIAS,
        forbidden=(2, 3),
        mask=read_mask([0, 100, 50, 150], VOCAB),
    ),
}


ISAS = [isa for isa in ("avx2", "avx512bf16") if native.best_isa(native._processor_flags(), isa)]


@pytest.fixture(params=["torch", *(ISAS if find_compiler() else [])])
def sample(request) -> Any:
    """Every sampler there is."""
    if request.param == "torch":
        return torch_sampler.sample
    return partial(SamplerKernel(native.load_from(pie_home() / "native", request.param)), threads=2)


def logits(rows: int, vocab: int, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def draw(sample: Any, rows: torch.Tensor, samplers: list[Sampler], positions: list[int]) -> list[Any]:
    """One token per row."""
    outputs = [
        Output(0, position, sampler, HISTORY if sampler.penalises else None)
        for sampler, position in zip(samplers, positions, strict=True)
    ]
    return sample(rows, range(len(outputs)), outputs)


def draw_often(sample: Any, row: torch.Tensor, sampler: Sampler, count: int, position: int = 7) -> np.ndarray:
    """Draws with many seeds from one row `[1, vocab]`."""
    outputs = [Output(0, position, replace(sampler, seed=seed), HISTORY) for seed in range(count)]
    return np.array(sample(row, [0] * count, outputs))


@pytest.mark.parametrize("name", METHODS)
def test_draws_follow_the_exact_distribution(sample, name):
    row = logits(1, VOCAB, 2.0)
    expected = exact_distribution(row[0].numpy(), METHODS[name], HISTORY)
    drawn = draw_often(sample, row, METHODS[name], DRAWS)
    assert expected[drawn].min() > 0, "a token outside of the support was drawn"
    distance = 0.5 * np.abs(np.bincount(drawn, minlength=VOCAB) / DRAWS - expected).sum()
    # The expected distance of an exact sampler with this many draws, three times over.
    assert distance < 3 * np.sqrt(expected * (1 - expected) / DRAWS).sum() / 2 + 1e-9


def test_nucleus_wider_than_the_first_candidates_is_exact(sample):
    """A flat distribution: the nucleus has thousands of tokens, none but those may come, the last of them can."""
    row = logits(1, 20_000, 0.3)
    nucleus = set(np.flatnonzero(exact_distribution(row[0].numpy(), Sampler(1.0, top_p=0.7))).tolist())
    assert len(nucleus) > 4096
    drawn = draw_often(sample, row, Sampler(1.0, top_p=0.7), 200)
    assert set(drawn.tolist()) <= nucleus
    order = row[0].argsort(descending=True)
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(20_000))
    assert ranks[drawn].max() > 0.9 * len(nucleus)


def test_a_row_does_not_depend_on_its_batch(sample):
    count = 2 * len(METHODS)
    rows = logits(count, VOCAB).bfloat16()
    samplers = [replace(sampler, seed=i) for i, sampler in enumerate([Sampler(), *METHODS.values()] * 2)][:count]
    positions = list(range(count))
    together = draw(sample, rows, samplers, positions)
    alone = [draw(sample, rows[i : i + 1], [samplers[i]], [positions[i]])[0] for i in range(count)]
    assert together == alone
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).tolist()
    mixed = draw(sample, rows[order], [samplers[i] for i in order], [positions[i] for i in order])
    assert mixed == [together[i] for i in order]


def test_several_outputs_may_ask_one_row(sample):
    rows = logits(2, VOCAB)
    outputs = [Output(0, 3, Sampler(1.0, seed=4)), Output(0, 3, Sampler()), Output(0, 3, Sampler(1.0, seed=4))]
    first, second, third = sample(rows, [1, 1, 1], outputs)
    assert first == third
    assert second == int(rows[1].argmax())


def test_greedy_is_the_argmax_and_the_lowest_id_among_equals(sample):
    rows = logits(8, 1000)
    rows[3, [7, 500, 900]] = 50.0
    drawn = draw(sample, rows, [Sampler()] * 8, [0] * 8)
    assert drawn == rows.argmax(-1).tolist()
    assert drawn[3] == 7


def test_equal_logits_are_kept_in_order_of_ids(sample):
    row = torch.zeros(1, 100)
    for sampler in (Sampler(1.0, top_k=10), Sampler(1.0, top_p=0.1), Sampler(1.0, typical_p=0.1)):
        assert set(draw_often(sample, row, sampler, 500).tolist()) == set(range(10))


def test_seed_and_position_decide(sample):
    row = logits(1, 1000, 1.0)
    again = [draw(sample, row, [Sampler(1.0, seed=4)], [9])[0] for _ in range(3)]
    assert len(set(again)) == 1
    assert len({draw(sample, row, [Sampler(1.0, seed=s)], [9])[0] for s in range(20)}) > 5
    assert len({draw(sample, row, [Sampler(1.0, seed=4)], [p])[0] for p in range(20)}) > 5


def test_impossible_tokens_are_never_drawn(sample):
    row = torch.full((1, 700), float("-inf"))
    row[0, [3, 650]] = torch.tensor([0.0, 1.0])
    assert set(draw_often(sample, row, Sampler(1.0), 500).tolist()) == {3, 650}


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-30, 1e-3, 1e30, 1e300])
def test_extreme_temperatures(sample, temperature):
    row = torch.full((1, 500), float("-inf"))
    row[0, 100:200] = logits(1, 100)[0]
    drawn = set(draw_often(sample, row, Sampler(temperature), 300).tolist())
    if temperature < 0.1:
        assert drawn == {int(row[0].argmax())}
    else:
        assert len(drawn) > 50
        assert min(drawn) >= 100
        assert max(drawn) < 200


def test_nothing_left_is_no_token(sample):
    row = torch.full((1, VOCAB), float("-inf"))
    row[0, 20] = 1.0
    masked = Sampler(mask=read_mask([100, 200], VOCAB))
    refused, refused_too, drawn = draw(
        sample, row.expand(3, -1), [masked, replace(masked, temperature=1.0), Sampler(1.0)], [0] * 3
    )
    assert isinstance(refused, BadRequest)
    assert isinstance(refused_too, BadRequest)
    assert drawn == 20


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), None])
def test_rows_that_are_no_numbers_are_refused_alone(sample, wrong):
    rows = logits(3, VOCAB)
    if wrong is None:
        rows[1] = float("-inf")
    else:
        rows[1, 299] = wrong
    first, second, third = draw(sample, rows, [Sampler(1.0), Sampler(1.0), Sampler()], [0] * 3)
    assert isinstance(second, DeviceError)
    assert isinstance(first, int)
    assert third == int(rows[2].argmax())
