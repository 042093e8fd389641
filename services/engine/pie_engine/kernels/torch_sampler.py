"""Sampling in torch, on whatever device the logits are: the twin that the native sampler must equal token by token.

After the temperature everything is integers. The weight of a token is 2**40 times its probability over the largest one,
rounded to a whole number; sums of integers are exact in any order, so that a row's token does not depend on batch,
threads or instruction set. Weights order tokens (equal ones: lower id first); a token of weight 0 is never drawn.
Nothing sorts the vocabulary: a truncation takes the most likely candidates, and more of them until they hold its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor

from pie_engine.passes.device import Draw, not_numbers, nothing_left
from pie_engine.passes.draws import uniforms
from pie_engine.passes.outputs import History, Output, Sampler
from pie_engine.passes.token_masks import allowed

SCALE_BITS = 40
"""The largest weight is 2**40: sums over a vocabulary stay below 2**63, and what float32 resolves has weight."""
LEVEL_BITS = 16
"""Fraction bits of a level, the negative binary logarithm of a weight, where typical sampling compares them."""
LOWEST = -64.0
"""Levels end here, far below the least that has weight."""
POLYNOMIAL = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)
"""2**f for f in [-1/2, 1/2], highest power first (Moshier: Cephes, `exp2f`)."""
_LOG2_E = 1.4426950408889634
_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_HALF_BITS = 20
_FAR = -int(LOWEST) << LEVEL_BITS
_ID_BITS = 22
_IDS = (1 << _ID_BITS) - 1
_CANDIDATES = 128
_GROWTH = 16
_GROUP = 64
"""Rows at a time, so that memory is bounded."""


def sample(logits: Tensor, rows: Sequence[int], outputs: Sequence[Output]) -> list[Draw]:
    """Draw a token for each of `outputs`, whose specs are samplers; output i has row `rows[i]` of `logits`
    `[U, vocab]`. In place of a token DeviceError where the largest logit is not finite, BadRequest where nothing may be
    drawn.

    Every token depends on its row's logits, its sampler and position only.
    """
    drawn: list[Draw] = []
    for at in range(0, len(outputs), _GROUP):
        drawn += _group(logits, rows[at : at + _GROUP], outputs[at : at + _GROUP])
    return drawn


def _group(logits: Tensor, indices: Sequence[int], outputs: Sequence[Output]) -> list[Draw]:
    samplers = [output.spec for output in outputs if isinstance(output.spec, Sampler)]
    rows = logits[torch.tensor(indices, device=logits.device)].float()
    sound = torch.isfinite(rows.amax(dim=-1)).tolist()
    for row, sampler, output in zip(rows, samplers, outputs, strict=True):
        edit(row, sampler, output.history)
    largest, first = rows.max(dim=-1)
    possible = torch.isfinite(largest).tolist()
    tokens: list[Draw] = [*first.tolist()]
    others = [i for i, sampler in enumerate(samplers) if sampler.temperature != 0.0 and sound[i] and possible[i]]
    if others:
        chosen = [samplers[i] for i in others]
        draws = uniforms([s.seed for s in chosen], [outputs[i].position for i in others])
        for i, token in zip(others, _draw(rows[others], largest[others], chosen, draws.tolist()), strict=True):
            tokens[i] = token
    for i, fine in enumerate(sound):
        if not (fine and possible[i]):
            tokens[i] = nothing_left() if fine else not_numbers()
    return tokens


def edit(row: Tensor, sampler: Sampler, history: History | None) -> None:
    """Apply mask, bias and penalties to logits `[vocab]` in place, in float32."""
    if not sampler.edits:
        return
    if sampler.mask is not None:
        row.masked_fill_(~torch.from_numpy(allowed(sampler.mask.bits(), len(row))).to(row.device), -torch.inf)
    if sampler.forbidden:
        row[list(sampler.forbidden)] = -torch.inf
    if sampler.bias is not None:
        row[_indices(sampler.bias.ids, row)] += torch.from_numpy(sampler.bias.values).to(row.device)
    if sampler.penalises and history is not None:
        _penalise(row, sampler, history)


def _penalise(row: Tensor, sampler: Sampler, history: History) -> None:
    if sampler.repetition_penalty != 1.0:
        # A tensor, since division by a plain number may become a product with its reciprocal.
        penalty = torch.tensor([sampler.repetition_penalty], dtype=torch.float32, device=row.device)
        seen = _indices(np.unique(history.tokens), row)
        values = row[seen]
        row[seen] = torch.where(values > 0, values / penalty, values * penalty)
    generated, counts = np.unique(history.tokens[history.start :], return_counts=True)
    ids = _indices(generated, row)
    row[ids] -= torch.from_numpy(counts.astype(np.float32) * np.float32(sampler.frequency_penalty)).to(row.device)
    row[ids] -= float(np.float32(sampler.presence_penalty))


def _indices(ids: np.ndarray, row: Tensor) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(row.device)


def _draw(rows: Tensor, largest: Tensor, samplers: Sequence[Sampler], draws: Sequence[float]) -> list[int]:
    levels = _levels(rows, largest, [s.temperature for s in samplers])
    weights = _weights(levels)
    vocab = rows.shape[1]
    if cut := [i for i, s in enumerate(samplers) if 0 < s.top_k < vocab]:
        weights[cut] = _top_k(weights[cut], [samplers[i].top_k for i in cut])
    if cut := [i for i, s in enumerate(samplers) if s.top_p < 1.0]:
        weights[cut] = _keep_mass(weights[cut], _most_likely_first(weights[cut]), [samplers[i].top_p for i in cut])
    if cut := [i for i, s in enumerate(samplers) if s.min_p > 0.0]:
        least = torch.tensor([least_weight(samplers[i].min_p) for i in cut], device=rows.device)
        weights[cut] = weights[cut].masked_fill_(weights[cut] < least[:, None], 0)
    if cut := [i for i, s in enumerate(samplers) if s.typical_p < 1.0]:
        weights[cut] = _typical(weights[cut], levels[cut], [samplers[i].typical_p for i in cut])
    cumulative = weights.cumsum(-1)
    totals = cumulative[:, -1].tolist()
    targets = [min(total - 1, int(draw * float(total))) for total, draw in zip(totals, draws, strict=True)]
    found = torch.searchsorted(cumulative, torch.tensor(targets, device=rows.device)[:, None], right=True)
    return found[:, 0].tolist()


def level_factor(temperature: float) -> float:
    """By what a difference of logits becomes one of levels: a float32, positive and finite."""
    return float(np.float32(min(max(_LOG2_E / temperature, _TINY), _HUGE)))


def least_weight(min_p: float) -> int:
    """What min-p keeps: weights from here on."""
    return ceil(min_p * float(1 << SCALE_BITS))


def _levels(rows: Tensor, largest: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Binary logarithms of probabilities over the largest one, `[n, vocab]` float32."""
    factors = torch.tensor([level_factor(t) for t in temperatures], dtype=torch.float32, device=rows.device)
    return ((rows - largest[:, None]) * factors[:, None]).clamp_(min=LOWEST)


def _weights(levels: Tensor) -> Tensor:
    """2**(40 + level), rounded, int64. Every step rounds to float32, so that other code can do the same."""
    whole = levels.round()
    part = levels - whole
    power = torch.full_like(part, POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        power.mul_(part).add_(coefficient)
    scale = (whole.to(torch.int32) + (127 + SCALE_BITS)).bitwise_left_shift_(23).view(torch.float32)
    return power.mul_(scale).round_().long()


def _top_k(weights: Tensor, counts: Sequence[int]) -> Tensor:
    keys = _most_likely_first(weights)
    last = torch.tensor(counts, device=weights.device)[:, None] - 1
    least = keys.topk(max(counts), dim=-1).values.gather(1, last)
    return weights.masked_fill_(keys < least, 0)


def _typical(weights: Tensor, levels: Tensor, shares: Sequence[float]) -> Tensor:
    """Surprisals less their mean, the entropy, are levels less their mean: constants cancel."""
    depths = (levels * -float(1 << LEVEL_BITS)).round_().long()
    # In two parts, as the sum of the products would not fit.
    high, low = weights >> _HALF_BITS, weights & ((1 << _HALF_BITS) - 1)
    highs, lows = (high * depths).sum(-1).tolist(), (low * depths).sum(-1).tolist()
    totals = weights.sum(-1).tolist()
    means = [((h << _HALF_BITS) + w) // total for h, w, total in zip(highs, lows, totals, strict=True)]
    distances = (depths - torch.tensor(means, device=weights.device)[:, None]).abs_()
    nearness = (_FAR - distances).masked_fill_(weights == 0, 0)
    return _keep_mass(weights, (nearness << _ID_BITS) + _lower_ids_first(weights), shares)


def _keep_mass(weights: Tensor, keys: Tensor, shares: Sequence[float]) -> Tensor:
    """In place: zero the weights of all but the fewest tokens of largest keys that hold their share of a row's sum."""
    goals = [
        min(total, max(1, ceil(share * float(total))))
        for share, total in zip(shares, weights.sum(-1).tolist(), strict=True)
    ]
    pending, width, vocab = list(range(len(goals))), _CANDIDATES, weights.shape[1]
    while pending:
        width = min(width, vocab)
        goal = torch.tensor([goals[i] for i in pending], device=weights.device)[:, None]
        candidates = keys[pending].topk(width, dim=-1).values
        cumulative = weights[pending].gather(1, _IDS - (candidates & _IDS)).cumsum(-1)
        reached = torch.searchsorted(cumulative, goal)[:, 0].tolist()
        for row, found, at in zip(pending, candidates, reached, strict=True):
            if at < width:
                weights[row].masked_fill_(keys[row] < found[at], 0)
        pending = [row for row, at in zip(pending, reached, strict=True) if at == width]
        width *= _GROWTH
    return weights


def _most_likely_first(weights: Tensor) -> Tensor:
    """Distinct keys: larger for larger weights, and for lower ids among equal ones."""
    return (weights << _ID_BITS) + _lower_ids_first(weights)


def _lower_ids_first(weights: Tensor) -> Tensor:
    return _IDS - torch.arange(weights.shape[1], device=weights.device)
