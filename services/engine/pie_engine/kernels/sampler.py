"""Batched sampling on the CPU without sorting the vocabulary.

Rows are split by what they need. Greedy rows take an argmax. Untruncated rows invert the cumulative distribution in
two levels. Truncated rows look at their most likely candidates only, and take more of them when the nucleus reaches
further: the result is exact top-p, and the work is bounded by the size of the nucleus rather than of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pie_engine.batch import Sampler
from pie_engine.draws import uniforms

_CANDIDATES = 128
_GROWTH = 16
_BLOCK = 256


def sample(logits: Tensor, samplers: Sequence[Sampler], positions: Sequence[int]) -> list[int]:
    """Draw one token per row of `logits` `[n, vocab]`; `positions` are those of the tokens drawn.

    Every row's token depends on its own logits, sampler and position only. The logits must be numbers (`are_numbers`).
    """
    rows = logits.float()
    drawn = torch.empty(len(samplers), dtype=torch.long)
    greedy = [i for i, s in enumerate(samplers) if s.temperature == 0.0]
    others = [i for i, s in enumerate(samplers) if s.temperature != 0.0]
    if greedy:
        drawn[greedy] = _select(rows, greedy).argmax(dim=-1)
    if others:
        chosen = [samplers[i] for i in others]
        draws = torch.from_numpy(uniforms([s.seed for s in chosen], [positions[i] for i in others]))
        drawn[others] = _stochastic(_select(rows, others), chosen, draws)
    return drawn.tolist()


def are_numbers(logits: Tensor) -> list[bool]:
    """Per row `[vocab]`: its largest logit is finite. Minus infinity may stand for single tokens, not for all."""
    return torch.isfinite(logits.amax(dim=-1)).tolist()


def most_likely(logits: Tensor, k: int) -> tuple[list[int], list[float]]:
    """The `k` most likely tokens of one row `[vocab]` and their probabilities at temperature 1, most likely first."""
    row = logits.float()
    values, ids = row.topk(min(k, row.numel()))
    return ids.tolist(), (values - torch.logsumexp(row, dim=-1)).exp().tolist()


def _select(rows: Tensor, indices: list[int]) -> Tensor:
    return rows if len(indices) == len(rows) else rows[indices]


def _stochastic(rows: Tensor, samplers: Sequence[Sampler], draws: Tensor) -> Tensor:
    scaled = rows / torch.tensor([s.temperature for s in samplers])[:, None]
    vocab = rows.shape[1]
    drawn = torch.empty(len(samplers), dtype=torch.long)
    # Rows by how many candidates they look at; the width is the row's own, since it decides between equal logits.
    by_width: dict[int, list[int]] = {}
    plain: list[int] = []
    for index, sampler in enumerate(samplers):
        top_k = sampler.top_k if 0 < sampler.top_k < vocab else 0
        if top_k == 0 and sampler.top_p >= 1.0:
            plain.append(index)
        else:
            width = _CANDIDATES if top_k <= _CANDIDATES else top_k
            by_width.setdefault(min(width, vocab), []).append(index)
    if plain:
        drawn[plain] = _inverse_cdf(_select(scaled, plain), draws[plain])
    total = torch.logsumexp(scaled, dim=-1) if by_width else scaled[:, 0]
    while by_width:
        width, members = by_width.popitem()
        top_k = torch.tensor([samplers[i].top_k if 0 < samplers[i].top_k < vocab else vocab for i in members])
        top_p = torch.tensor([samplers[i].top_p for i in members], dtype=torch.float64)
        tokens, covered = _truncated(_select(scaled, members), total[members], width, top_k, top_p, draws[members])
        for index, token, enough in zip(members, tokens.tolist(), covered.tolist(), strict=True):
            if enough:
                drawn[index] = token
            else:
                by_width.setdefault(min(width * _GROWTH, vocab), []).append(index)
    return drawn


def _truncated(
    scaled: Tensor, total: Tensor, width: int, top_k: Tensor, top_p: Tensor, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw among the `width` most likely tokens; the second result says for which rows these hold the whole nucleus.

    `total` is the log of the sum over the vocabulary; `top_k` is the vocabulary's size where there is no limit.
    """
    vocab = scaled.shape[1]
    values, ids = scaled.topk(width, dim=-1)
    weights = (values - total[:, None]).double().exp()
    weights = weights.masked_fill(torch.arange(width) >= top_k[:, None], 0.0)
    limited = top_k < vocab
    mass = weights.sum(-1)
    # A top-k set is wholly among the candidates and renormalised by its own mass; otherwise the mass is that of all.
    goal = top_p * torch.where(limited | (width == vocab), mass, torch.ones((), dtype=torch.float64))
    covered = limited | (width == vocab) | (mass >= goal)
    before = weights.cumsum(-1) - weights
    outside = before >= goal[:, None]
    outside[:, 0] = False
    cumulative = weights.masked_fill(outside, 0.0).cumsum(-1)
    index = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True).clamp_(max=width - 1)
    return ids.gather(1, index)[:, 0], covered


def _inverse_cdf(scaled: Tensor, draws: Tensor) -> Tensor:
    """First find the block of the vocabulary that the draw falls into, then the token inside."""
    count, vocab = scaled.shape
    weights = (scaled - scaled.amax(dim=-1, keepdim=True)).exp_()
    padding = -vocab % _BLOCK
    if padding:
        weights = torch.nn.functional.pad(weights, (0, padding))
    blocks = weights.view(count, -1, _BLOCK)
    upto = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    threshold = draws[:, None] * upto[:, -1:]
    block = torch.searchsorted(upto, threshold, right=True).clamp_(max=upto.shape[1] - 1)
    before = torch.where(block > 0, upto.gather(1, (block - 1).clamp_(min=0)), torch.zeros((), dtype=torch.float64))
    inside = blocks[torch.arange(count), block[:, 0]].double().cumsum(-1)
    index = torch.searchsorted(inside, (threshold - before).clamp_(min=0), right=True)
    # Rounding may point past the last token with weight; step back to it.
    last = _BLOCK - 1 - (blocks[torch.arange(count), block[:, 0]].flip(-1) > 0).to(torch.int8).argmax(-1, keepdim=True)
    return (block * _BLOCK + torch.minimum(index, last))[:, 0]


def exact_distribution(logits: Tensor, sampler: Sampler) -> np.ndarray:
    """The distribution that `sample` draws from, by full sort: the plain definition, for tests and diagnosis."""
    row = logits.double()
    if sampler.temperature == 0.0:
        out = torch.zeros_like(row)
        out[row.argmax()] = 1.0
        return out.numpy()
    values, ids = (row / sampler.temperature).softmax(-1).sort(descending=True, stable=True)
    if sampler.top_k > 0:
        values[sampler.top_k :] = 0.0
    values /= values.sum()
    values[(values.cumsum(-1) - values) >= sampler.top_p] = 0.0
    values /= values.sum()
    return torch.zeros_like(row).scatter(0, ids, values).numpy()
