"""Draws tokens with the best sampler there is."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from pie_engine.kernels import torch_sampler
from pie_engine.kernels.native import load
from pie_engine.kernels.native_sampler import SamplerKernel
from pie_engine.passes.device import Draw
from pie_engine.passes.outputs import Output


def sample(logits: Tensor, rows: Sequence[int], outputs: Sequence[Output], threads: int = 1) -> list[Draw]:
    """As `torch_sampler.sample`, on at most so many threads."""
    kernel = _kernel() if logits.device.type == "cpu" else None
    if not outputs:
        return []
    if kernel is None:
        return torch_sampler.sample(logits, rows, outputs)
    return kernel(logits, rows, outputs, threads)


def sampler_name() -> str:
    """For status."""
    return "torch" if _kernel() is None else "native"


@functools.cache
def _kernel() -> SamplerKernel | None:
    native = load()
    return None if native is None else SamplerKernel(native)
