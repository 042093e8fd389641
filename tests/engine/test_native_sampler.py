"""The native sampler gives the very tokens of its twin: random and adversarial logits, everything mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_engine.kernels import native, torch_sampler
from pie_engine.kernels.native_build import find_compiler
from pie_engine.kernels.native_sampler import SamplerKernel
from pie_engine.passes.outputs import Bias, History, Output, Sampler
from pie_engine.passes.token_masks import PackedMask
from pie_wire.config import pie_home
from pie_wire.errors import PieError

ISAS = [isa for isa in ("avx2", "avx512bf16") if native.best_isa(native._processor_flags(), isa)]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(find_compiler() is None or not ISAS, reason="no C++ compiler, or no such processor"),
]

SHAPES = {
    "normal": lambda g, n: g.normal(size=n) * 3,
    "flat": lambda g, n: g.normal(size=n) * 0.01,
    "equal": lambda g, n: np.zeros(n),
    "few values": lambda g, n: g.integers(0, 4, size=n),
    "one hot": lambda g, n: np.where(np.arange(n) == g.integers(n), 50.0, -50.0),
    "peaked": lambda g, n: g.normal(size=n) * 30,
    "mostly impossible": lambda g, n: np.where(g.random(n) < 0.02, g.normal(size=n), -np.inf),
    "huge": lambda g, n: g.normal(size=n) * 1e38,
    "lighter than its sample": lambda g, n: g.normal(size=n) * 3 + 8 * (np.arange(n) % 384 < 16),
    "heavier than its sample": lambda g, n: g.normal(size=n) * 3 - 8 * (np.arange(n) % 384 < 16),
    "bfloat16": lambda g, n: torch.tensor(g.normal(size=n) * 4).bfloat16().double().numpy(),
}


@pytest.fixture(scope="module", params=ISAS)
def kernel(request) -> SamplerKernel:
    return SamplerKernel(native.load_from(pie_home() / "native", request.param))


def mixed(generator: np.random.Generator, vocab: int) -> Output:
    """A sampler with a random choice of everything."""
    g = generator
    on = lambda chance: g.random() < chance  # noqa: E731
    count = min(vocab, int(g.integers(1, 9)))
    mask = PackedMask(g.integers(0, 1 << 32, size=-(-vocab // 32), dtype=np.uint32)) if on(0.3) else None
    bias = (
        Bias(
            g.choice(vocab, count, replace=False).astype(np.int32),
            np.where(g.random(count) < 0.2, -np.inf, g.normal(size=count) * 5).astype(np.float32),
        )
        if on(0.3)
        else None
    )
    sampler = Sampler(
        temperature=float(
            g.choice([0.0, 1.0, 0.7, 1e-4, 1e-300, 30.0, 1e300], p=[0.1, 0.3, 0.3, 0.1, 0.05, 0.1, 0.05])
        ),
        top_p=float(g.choice([1.0, 0.9, 0.999, 1e-9, g.random() * 0.99 + 0.005])),
        top_k=int(g.choice([0, 1, 5, 50, 1000, vocab, 1 << 40])) if on(0.5) else 0,
        seed=int(g.integers(1 << 60)),
        min_p=float(g.choice([0.05, 1.0, 1e-12, g.random()])) if on(0.3) else 0.0,
        typical_p=float(g.choice([0.2, 0.95, g.random() * 0.99 + 0.005])) if on(0.3) else 1.0,
        repetition_penalty=float(g.choice([1.3, 0.8])) if on(0.3) else 1.0,
        presence_penalty=float(g.normal()) if on(0.3) else 0.0,
        frequency_penalty=float(g.normal()) if on(0.3) else 0.0,
        bias=bias,
        forbidden=tuple(g.integers(vocab, size=count).tolist()) if on(0.3) else (),
        mask=mask,
    )
    length = int(g.integers(1, 60))
    history = History(g.integers(vocab, size=length).astype(np.int32), int(g.integers(length + 1)))
    return Output(0, int(g.integers(1 << 20)), sampler, history if sampler.penalises else None)


def answers(results: list[Any]) -> list[Any]:
    return [type(result) if isinstance(result, PieError) else result for result in results]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.sampled_from(sorted(SHAPES)), st.sampled_from([1, 2, 15, 16, 17, 31, 33, 700, 2100]))
def test_tokens_are_those_of_the_twin(kernel, seed, shape, vocab):
    generator = np.random.default_rng(seed)
    rows = torch.tensor(np.stack([SHAPES[shape](generator, vocab) for _ in range(3)]), dtype=torch.float32)
    if seed % 3 == 0:
        rows = rows.bfloat16()
    outputs = [mixed(generator, vocab) for _ in range(12)]
    asked = generator.integers(3, size=12).tolist()
    assert answers(kernel(rows, asked, outputs, 2)) == answers(torch_sampler.sample(rows, asked, outputs))


@pytest.mark.parametrize("vocab", [49_152, 151_936, 200_001])
@pytest.mark.parametrize("shape", ["normal", "flat", "few values", "bfloat16", *(s for s in SHAPES if "sample" in s)])
def test_tokens_of_large_vocabularies_are_those_of_the_twin(kernel, vocab, shape):
    generator = np.random.default_rng(vocab)
    rows = torch.tensor(SHAPES[shape](generator, vocab), dtype=torch.float32)[None]
    outputs = [
        Output(0, 7, Sampler(0.8, top_p, top_k, seed, min_p, typical_p))
        for seed, (top_p, top_k, min_p, typical_p) in enumerate(
            [
                (1, 0, 0, 1),
                (0.9, 0, 0, 1),
                (0.9, 0, 0, 1),
                (0.95, 60, 0, 1),
                (1, 0, 0.02, 1),
                (1, 0, 0, 0.9),
                (0.999, 0, 0, 1),
            ]
        )
    ]
    asked = [0] * len(outputs)
    assert kernel(rows, asked, outputs, 2) == torch_sampler.sample(rows, asked, outputs)


def test_rows_may_be_spread_in_memory(kernel):
    whole = torch.randn(6, 1000, generator=torch.Generator().manual_seed(1))
    rows = whole[::2, :700]
    outputs = [Output(0, 3, Sampler(1.0, 0.9, seed=i)) for i in range(3)]
    assert kernel(rows, [0, 1, 2], outputs, 1) == torch_sampler.sample(rows.contiguous(), [0, 1, 2], outputs)


@pytest.mark.slow
def test_many_tokens_are_those_of_the_twin(kernel):
    for seed in range(3000):
        generator = np.random.default_rng(seed)
        vocab = int(generator.integers(1, 5000))
        shape = sorted(SHAPES)[seed % len(SHAPES)]
        rows = torch.tensor(SHAPES[shape](generator, vocab), dtype=torch.float32)[None]
        outputs = [mixed(generator, vocab) for _ in range(16)]
        assert answers(kernel(rows, [0] * 16, outputs, 2)) == answers(torch_sampler.sample(rows, [0] * 16, outputs))


@pytest.mark.parametrize("typical_p", [0.03, 0.5, 0.97, 0.9999999])
@pytest.mark.parametrize("light", [4, 12, 36])
def test_typical_tokens_far_from_the_mean_are_found(kernel, typical_p, light):
    """Of 100 heavy tokens and many `light` levels below with a twentieth of the weight: depths that are not normal at
    all, so that the last token kept is not where it is looked for first."""
    many = min(150_000, int(100 * 2.0**light / 20))
    row = np.concatenate([np.zeros(100), np.full(many, -light * np.log(2.0))])
    row += np.random.default_rng(light).normal(size=len(row)) * 1e-3
    rows = torch.tensor(row, dtype=torch.float32)[None]
    outputs = [Output(0, 7, Sampler(1.0, typical_p=typical_p, seed=seed)) for seed in range(40)]
    found = answers(kernel(rows, [0] * 40, outputs, 1))
    assert found == answers(torch_sampler.sample(rows, [0] * 40, outputs))
    assert typical_p < 0.9 or light > 12 or max(found) >= 100
