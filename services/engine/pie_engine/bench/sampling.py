"""The sampler by itself: the device with a forward pass that only hands out logits."""

from __future__ import annotations

import time
from typing import cast

import torch

from pie_engine.models.base import Model, ModelOutput
from pie_engine.models.model_device import ModelDevice
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.outputs import Output, Sampler
from pie_engine.passes.segment import Segment


class GivenLogits:
    """What `ModelDevice` uses of a model in a pass: `rows` rows of bfloat16 logits, normally distributed with a
    standard deviation of 2.5, which makes a nucleus of some hundred to some thousand tokens."""

    def __init__(self, rows: int, vocab: int) -> None:
        random = torch.Generator().manual_seed(0)
        self._logits = torch.randn(rows, vocab, generator=random).mul_(2.5).bfloat16()

    def forward(self, batch: Batch) -> ModelOutput:
        return ModelOutput(self._logits)


def sampler_ms(rows: int, vocab: int, times: int) -> list[float]:
    """Milliseconds of drawing one token for each of `rows` rows by top-p 0.9, that often. For the device's thread."""
    device = ModelDevice(cast(Model, GivenLogits(rows, vocab)))
    segments = [
        Segment([0], [0], 0, [row], outputs=(Output(0, 1, Sampler(temperature=1.0, top_p=0.9, seed=row)),))
        for row in range(rows)
    ]
    batch = build(segments, page_size=16, scratch_page=rows)
    device.execute(batch)
    samples: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        device.execute(batch)
        samples.append((time.perf_counter() - began) * 1000.0)
    return samples
