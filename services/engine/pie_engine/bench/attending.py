"""Attention by itself: what serves here over the twin in torch, and a shared prefix over the same decodes apart."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from pie_engine.bench.figure import Figure
from pie_engine.bench.stand import Stand
from pie_engine.kernels import native
from pie_engine.kernels.attention import Attention
from pie_engine.kernels.kv_pool import KvPool
from pie_engine.kernels.native_attention import NativeAttention
from pie_engine.kernels.torch_attention import TorchAttention
from pie_engine.passes.batch import Batch
from pie_engine.passes.build import build
from pie_engine.passes.segment import Segment

_HEADS, _KV_HEADS, _DIM, _PAGE = 9, 3, 64, 16
"""SmolLM2-135M's."""
_LAYERS: Final = 4
"""Each with KV of its own, so that what one has read does not help the next."""


@dataclass(frozen=True)
class _Load:
    """`requests` of `rows` rows each at the end of `context` slots, the first `shared` of them in common."""

    name: str
    requests: int
    context: int
    rows: int = 1
    shared: int = 0

    def batch(self) -> tuple[Batch, int]:
        """The pass, and how many pages it takes."""
        common, own = self.shared // _PAGE, -(-self.context // _PAGE) - self.shared // _PAGE
        order = list(range(common + self.requests * own))
        random.Random(0).shuffle(order)
        prefix, free = order[:common], order[common:]
        first = self.context - self.rows
        segments = [
            Segment([0] * self.rows, range(first, self.context), first, prefix + free[i * own : (i + 1) * own])
            for i in range(self.requests)
        ]
        return build(segments, page_size=_PAGE, scratch_page=len(order)), len(order)


_LOADS: Final = (
    _Load("b16-c256", 16, 256),
    _Load("b64-c256", 64, 256),
    _Load("b16-c1024", 16, 1024),
    _Load("prefill-512", 1, 512, rows=512),
)
_SHARED: Final = _Load("b32-shared1024", 32, 1056, shared=1024)


def attention_figures(stand: Stand, rounds: int) -> Iterator[Figure]:
    """Milliseconds a layer of bfloat16 attention in SmolLM2's shape, and ratios; medians of interleaved rounds."""
    kernels = native.load()
    twin = TorchAttention()
    for load in _LOADS:
        sides: dict[str, Attention] = {"torch": twin}
        if kernels is not None:
            sides["native"] = NativeAttention(kernels)
        took = _measure(load, sides, rounds)
        yield Figure(f"attention-{load.name}", statistics.median(took[list(sides)[-1]]), "ms/layer")
        if kernels is not None:
            yield Figure(f"attention-{load.name}-over-torch", _ratio(took, "native", "torch"), "x")
    if kernels is not None:
        both = {"shared": NativeAttention(kernels), "apart": NativeAttention(kernels, shares=False)}
        took = _measure(_SHARED, both, rounds)
        yield Figure(f"attention-{_SHARED.name}", statistics.median(took["shared"]), "ms/layer")
        yield Figure(f"attention-{_SHARED.name}-over-apart", _ratio(took, "shared", "apart"), "x")


def _measure(load: _Load, sides: Mapping[str, Attention], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a layer, one sample a round and side; the first round is not counted."""
    batch, pages = load.batch()
    pool = KvPool(pages, _LAYERS, _KV_HEADS, _DIM, _PAGE, torch.bfloat16)
    pool.tensor.normal_(generator=torch.Generator().manual_seed(1))
    together = torch.randn(batch.rows, _HEADS + 2 * _KV_HEADS, _DIM).bfloat16()
    query = together.narrow(1, 0, _HEADS)
    key, value = (together.narrow(1, _HEADS + part * _KV_HEADS, _KV_HEADS) for part in range(2))
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, attention in sides.items():
            going = attention.begin(batch, pool)
            began = time.perf_counter()
            for layer in range(_LAYERS):
                going.attend(layer, query, key, value, scale=_DIM**-0.5)
            took[name].append((time.perf_counter() - began) * 1000.0 / _LAYERS)
    return {name: samples[1:] for name, samples in took.items()}


def _ratio(took: Mapping[str, list[float]], this: str, over: str) -> float:
    """Median over rounds of each round's own ratio, which a change of the machine's load moves less."""
    return statistics.median(a / b for a, b in zip(took[this], took[over], strict=True))
