"""The reference mode, float32: what a request gets depends neither on its company nor on how it is cut into passes.

With the native kernels its logits are the same to the bit, since every sum has an order of its own whatever the batch;
torch chooses orders by the size of a product, so that its twin promises equality up to rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pie_engine.kernels import native
from pie_engine.kernels.attention import Attention
from pie_engine.kernels.choice import available_attentions
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.models.model_device import ModelDevice
from pie_engine.models.tiny_config import shrink
from pie_engine.models.transformers_model import TransformersModel
from pie_engine.passes.build import build
from pie_engine.passes.outputs import LogitsProbe, Output
from pie_engine.passes.segment import Segment

PAGES = 64
LENGTHS = (1, 2, 17, 40, 90, 3, 33)
FAMILIES = ("Llama", "Qwen3", "Gemma2", "GPTNeoX")
ROUNDING = 3e-5


class Reference:
    """A tiny random model, and the logits after the last token of prompts that run in one way or another."""

    def __init__(self, family: str, attention: Attention) -> None:
        config = shrink(getattr(transformers, f"{family}Config")())
        torch.manual_seed(0)
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        self.exact = not isinstance(attention, TorchAttention)
        model = TransformersModel(plain, attention, name=family)
        model.allocate(PAGES, 16)
        self._model = model
        self.device = ModelDevice(model)
        draw = np.random.default_rng(1)
        self.prompts = [draw.integers(3, 512, length).tolist() for length in LENGTHS]

    def run(self, passes: Iterator[Sequence[tuple[int, int, int]]], seed: int = 0) -> list[np.ndarray]:
        """Passes of (prompt, start, stop), over pages in random order."""
        self._model.allocate(PAGES, 16)
        free = np.random.default_rng(seed).permutation(PAGES).tolist()
        tables = [[free.pop() for _ in range(-(-len(ids) // 16))] for ids in self.prompts]
        found: dict[int, np.ndarray] = {}
        for rows in passes:
            segments = []
            for prompt, start, stop in rows:
                ids = self.prompts[prompt]
                wanted = [Output(stop - start - 1, stop, LogitsProbe())] if stop == len(ids) else []
                table = tables[prompt][: -(-stop // 16)]
                segments.append(Segment(ids[start:stop], range(start, stop), start, table, outputs=wanted))
            done = [prompt for prompt, _, stop in rows if stop == len(self.prompts[prompt])]
            results = self.device.execute(build(segments, page_size=16, scratch_page=PAGES))
            found |= {prompt: np.asarray(result.values) for prompt, result in zip(done, results, strict=True)}
        return [found[prompt] for prompt in range(len(self.prompts))]

    def alone(self) -> list[np.ndarray]:
        return self.run([(prompt, 0, len(ids))] for prompt, ids in enumerate(self.prompts))

    def together(self) -> list[np.ndarray]:
        return self.run(iter([[(prompt, 0, len(ids)) for prompt, ids in enumerate(self.prompts)]]), seed=1)

    def token_by_token(self) -> list[np.ndarray]:
        """All in step, one row each."""
        longest = max(LENGTHS)
        steps = [[(i, at, at + 1) for i, n in enumerate(LENGTHS) if at < n] for at in range(longest)]
        return self.run(iter(steps), seed=2)

    def in_chunks(self) -> list[np.ndarray]:
        """Chunks of random sizes, prompts joining and leaving passes at random."""
        draw = np.random.default_rng(3)
        at = [0] * len(LENGTHS)
        passes = []
        while any(done < length for done, length in zip(at, LENGTHS, strict=True)):
            rows = []
            for prompt in draw.permutation(len(LENGTHS)).tolist():
                left = LENGTHS[prompt] - at[prompt]
                if left and draw.random() < 0.6:
                    stop = at[prompt] + int(draw.integers(1, left + 1))
                    rows.append((prompt, at[prompt], stop))
                    at[prompt] = stop
            if rows:
                passes.append(rows)
        return self.run(iter(passes), seed=3)


def cases() -> list[Any]:
    return [
        pytest.param(
            family,
            attention,
            id=f"{family}-{attention.name}",
            marks=[] if family in ("Llama", "Gemma2") else [pytest.mark.slow],
        )
        for family in FAMILIES
        for attention in available_attentions("cpu")
    ]


@pytest.mark.parametrize(("family", "attention"), cases())
def test_logits_do_not_depend_on_company_or_cuts(family, attention, monkeypatch):
    if isinstance(attention, TorchAttention):
        monkeypatch.setattr(native, "load", lambda: None)
    reference = Reference(family, attention)
    alone = reference.alone()
    assert max(float(np.abs(logits).max()) for logits in alone) > 0.1
    for name in ("together", "token_by_token", "in_chunks"):
        for prompt, (ours, expected) in enumerate(zip(getattr(reference, name)(), alone, strict=True)):
            if reference.exact:
                assert np.array_equal(ours, expected), f"{name}: prompt {prompt}"
            else:
                scale = float(np.abs(expected).max())
                assert np.allclose(ours, expected, atol=ROUNDING * max(1.0, scale)), f"{name}: prompt {prompt}"


@pytest.mark.skipif(native.load() is None, reason="there are no native kernels here")
def test_the_number_of_threads_changes_nothing():
    reference = Reference("Llama", available_attentions("cpu")[0])
    one = reference.together()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        reference.device = ModelDevice(reference._model, threads=3)
        three = reference.together()
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
