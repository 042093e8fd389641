"""What sampling means, as plain float64 arithmetic over a sorted vocabulary. Devices do the same faster; tests compare
them with this, and devices without a model draw from it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pie_engine.passes.outputs import History, Sampler
from pie_engine.passes.token_masks import allowed

Float64Array: TypeAlias = NDArray[np.float64]


def edited_logits(logits: NDArray[np.floating], sampler: Sampler, history: History | None = None) -> Float64Array:
    """Logits `[vocab]` after mask, bias and penalties (steps 1 to 3 of `pie_engine.passes.outputs`)."""
    row = logits.astype(np.float64)
    if sampler.mask is not None:
        row[~allowed(sampler.mask.bits(), len(row))] = -np.inf
    row[list(sampler.forbidden)] = -np.inf
    if sampler.bias is not None:
        row[sampler.bias.ids] += sampler.bias.values
    if sampler.penalises and history is not None:
        seen = np.unique(history.tokens)
        penalty = sampler.repetition_penalty
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        generated, counts = np.unique(history.tokens[history.start :], return_counts=True)
        row[generated] -= sampler.frequency_penalty * counts
        row[generated] -= sampler.presence_penalty
    return row


def exact_distribution(logits: NDArray[np.floating], sampler: Sampler, history: History | None = None) -> Float64Array:
    """Probabilities `[vocab]` of the token that `sampler` draws. All zero if no token has a finite logit."""
    row = edited_logits(logits, sampler, history)
    if not np.isfinite(row.max()):
        return np.zeros_like(row)
    if sampler.temperature == 0.0:
        return (np.arange(len(row)) == row.argmax()).astype(np.float64)
    weights = np.exp((row - row.max()) / sampler.temperature)
    order = np.argsort(-weights, kind="stable")
    if 0 < sampler.top_k < len(row):
        weights[order[sampler.top_k :]] = 0.0
    _keep_mass(weights, order, sampler.top_p)
    weights[weights < sampler.min_p * weights.max()] = 0.0
    if sampler.typical_p < 1.0:
        kept = np.flatnonzero(weights)
        surprisal = -np.log(weights[kept] / weights.sum())
        entropy = (weights[kept] * surprisal).sum() / weights.sum()
        _keep_mass(weights, kept[np.argsort(np.abs(surprisal - entropy), kind="stable")], sampler.typical_p)
    return weights / weights.sum()


def _keep_mass(weights: Float64Array, order: NDArray[np.intp], share: float) -> None:
    """Zero all but the shortest prefix of `order` that has `share` of the sum."""
    if share < 1.0:
        cumulative = weights[order].cumsum()
        weights[order[1:][cumulative[:-1] >= share * cumulative[-1]]] = 0.0
