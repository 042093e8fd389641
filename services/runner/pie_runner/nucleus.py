"""The nucleus of a long row, without weights of all its tokens.

Nearly all tokens of a row are too light to be in its nucleus, and of them only the sum matters. So all are estimated in
float32, with an error whose bound is known, and only those near the top get weights. Estimates decide nothing: where
their error leaves room for two answers the sum of all weights has to tell.

`e` is the estimate of a token that weighs w: |w - 2**40 e| <= 2**40 e / 2**17 + 1. Its exponent, at most 29 where w is
not 0, is off by 3 roundings to float32; exp by 3 units of the last place, and w by a few and that of the polynomial.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pie_runner.weights import SCALE_BITS, Floats, Ids, goal, ranked, weights_of

LEAST = 8192
"""Of shorter rows the weights of all tokens are had as soon."""

ERROR = 2.0**-17
"""Of an estimate."""
_COLUMN = 16
"""Tokens that are summed in float32."""
_SUM_ERROR = 2.0**-20
"""Of such a sum, by 15 roundings."""
_TOPS = 1024
"""As many tokens tell where a nucleus ends."""
_BELOW = np.float32(1.0 - 2.0**-10)
"""Tokens that are estimated to be slightly lighter than the last one that is likely to be kept may be heavier."""


class Nucleus(NamedTuple):
    """The fewest most likely tokens that hold a share; the lower id first among equals."""

    places: Ids
    """Ascending."""
    weights: Ids


def nucleus(values: Floats, factor: np.float32, share: float) -> Nucleus | None:
    """What holds this share (below 1) of a row of at least LEAST values.

    None where this cannot tell: a row that is too flat, one that is not all numbers."""
    largest = np.maximum.reduce(values)
    if not math.isfinite(largest):
        return None
    estimates = estimates_of(values, largest, np.float32(float(factor) * math.log(2.0)))
    total = _sum(estimates)
    cut = _cut(estimates, share * total)
    places = (estimates >= cut).nonzero()[0]
    weights = weights_of(values[places], largest, factor)
    order = ranked(weights, np.arange(len(weights)))
    held = weights[order].cumsum()
    tail = total - float(np.add.reduce(estimates[places], dtype=np.float64))
    bounds = _bounds(int(held[-1]), tail, tail * ERROR + total * _SUM_ERROR, len(values))
    if held[-1] < goal(bounds[1], share):
        return None
    at = _reached(held, share, *bounds)
    if at is None:
        exact = int(weights_of(values, largest, factor).sum())
        at = _reached(held, share, exact, exact)
    if at is None or weights[order[at]] <= _heaviest(float(cut)):
        return None
    kept = order[: at + 1]
    kept.sort()
    return Nucleus(places[kept], weights[kept])


def estimates_of(values: Floats, largest: np.float32, scale: np.float32) -> Floats:
    """Of the weights of values, as parts of the weight of the largest one."""
    with np.errstate(over="ignore"):
        estimates = values - largest
        estimates *= scale
    return np.exp(estimates, out=estimates)


def _columns(row: Floats) -> Floats:
    """A view of all but the last few."""
    count = len(row) // _COLUMN
    return row[: count * _COLUMN].reshape(_COLUMN, count)


def _sum(estimates: Floats) -> float:
    columns = _columns(estimates)
    total = float(np.add.reduce(np.add.reduce(columns), dtype=np.float64))
    if columns.size < len(estimates):
        total += float(np.add.reduce(estimates[columns.size :], dtype=np.float64))
    return total


def _cut(estimates: Floats, needed: float) -> np.float32:
    """Tokens with estimates from there on are likely to hold what is needed. They do if the largest ones of columns do,
    which are some of them."""
    tops = np.maximum.reduce(_columns(estimates))
    tops.sort()
    first = tops[: -_TOPS - 1 : -1]
    at = 1 + int(first.cumsum().searchsorted(np.float32(needed)))
    return np.float32(first[min(at, len(first) - 1)] * _BELOW)


def _bounds(held: int, tail: float, error: float, size: int) -> tuple[int, int]:
    """Of the sum of all weights: those of some tokens, and an estimate of the others."""
    unit = float(1 << SCALE_BITS)
    return held + max(0, int((tail - error) * unit) - size), held + int((tail + error) * unit) + size + 1


def _reached(held: Ids, share: float, least: int, most: int) -> int | None:
    """Where sums of weights reach this share of all weights, which are `least` to `most`: None if that is not known."""
    first, last = held.searchsorted((goal(least, share), goal(most, share))).tolist()
    return first if first == last < len(held) else None


def _heaviest(cut: float) -> int:
    """What a token of a lower estimate may weigh."""
    return int(cut * (1.0 + ERROR) * float(1 << SCALE_BITS)) + 1
