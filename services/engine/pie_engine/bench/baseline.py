"""The yardstick: what a step's linear layers cost by themselves, in oneDNN-prepacked bfloat16."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TRIALS = 5


@dataclass(frozen=True)
class Shapes:
    """Sizes of a Llama-like model."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def read(cls, folder: Path) -> Shapes:
        """From a model folder's config.json."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            inner=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab=int(config["vocab_size"]),
        )

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(out, in) of a layer's linears, with query, key and value as one and gate and up as one."""
        attended = self.heads * self.head_dim
        qkv = attended + 2 * self.kv_heads * self.head_dim
        return [(qkv, self.hidden), (self.hidden, attended), (2 * self.inner, self.hidden), (self.hidden, self.inner)]


class Gemms:
    """All linears of one step: `rows` rows through every layer, `outputs` rows through the head.

    Every layer has weights of its own, packed once for exactly this number of rows; nothing else runs in between. To be
    made and called on the device's thread. `threads` is the number with which it was fastest, found by trial.
    """

    def __init__(self, shapes: Shapes, rows: int, outputs: int) -> None:
        random = torch.Generator().manual_seed(0)
        self._calls: list[tuple[Tensor, Tensor]] = []
        inputs = {size: _normal(random, rows, size) for size in {size for _, size in shapes.linears}}
        for _ in range(shapes.layers):
            self._calls += [(inputs[size], _packed(_normal(random, out, size), rows)) for out, size in shapes.linears]
        head = _packed(_normal(random, shapes.vocab, shapes.hidden), outputs)
        self._calls.append((_normal(random, outputs, shapes.hidden), head))
        self.threads = self._best_threads()

    def milliseconds(self, times: int) -> list[float]:
        """Each of so many repetitions. The thread count is afterwards what it was before."""
        return self._timed(times, self.threads)

    def _best_threads(self) -> int:
        most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        counts = sorted({1, max(1, most // 2), most})
        trials: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(_TRIALS):
            for count in counts:
                trials[count] += self._timed(2, count)
        return min(counts, key=lambda count: statistics.median(trials[count]))

    def _timed(self, times: int, threads: int) -> list[float]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                return [self._once() for _ in range(times)]
        finally:
            torch.set_num_threads(before)

    def _once(self) -> float:
        linear = torch.ops.mkldnn._linear_pointwise
        began = time.perf_counter()
        for rows, weight in self._calls:
            linear(rows, weight, None, "none", [], "")
        return (time.perf_counter() - began) * 1000.0


def _normal(random: torch.Generator, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=random).mul_(0.02).bfloat16()


def _packed(weight: Tensor, rows: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)
