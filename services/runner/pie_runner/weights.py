"""Probabilities as whole numbers, in numpy: the same steps as the engine's sampler takes, so that sums do not depend on
their order, nor draws on the machine.

A token's weight is 2**40 times its probability over the largest one.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

SCALE_BITS = 40
LOWEST = np.float32(-64.0)
"""Levels, binary logarithms of weights less 40, end here, far below the least that has weight."""
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
BLOCK = 64
"""Neighbours whose weights are summed together before one is looked for."""
_SHORT = 2048
"""So few weights are added up one by one."""
PLACE_BITS = 22
"""Of a token's place in a row."""

_LOG2_E = 1.4426950408889634
_POLYNOMIAL = tuple(
    np.float32(c)
    for c in (
        1.535336188319500e-4,
        1.339887440266574e-3,
        9.618437357674640e-3,
        5.550332471162809e-2,
        2.402264791363012e-1,
        6.931472028550421e-1,
        1.0,
    )
)
"""2**f for f in [-1/2, 1/2], highest power first (Moshier: Cephes, `exp2f`)."""
_PIECE = 16384
_CANDIDATES = 256
_GROWTH = 32
_ROUNDER = np.float32(1.5 * 2**23 + SCALE_BITS)
"""Added to a small number this leaves the nearest whole one, even among equals, plus 40 in the lowest bits."""
_MANTISSA_BITS = 23


def level_factor(temperature: float) -> np.float32:
    """By what a difference of values becomes one of levels."""
    return np.float32(min(max(_LOG2_E / temperature, TINY), HUGE))


def weights_of(values: Floats, largest: np.float32, factor: np.float32) -> Ids:
    """Weights of values, of which `largest` is the largest."""
    with np.errstate(over="ignore"):
        if len(values) <= _PIECE:
            return _piece(values - largest, factor).astype(np.int64)
        weights = np.empty(len(values), dtype=np.int64)
        # In pieces that stay in the cache: five times as fast as all at once.
        for at in range(0, len(values), _PIECE):
            weights[at : at + _PIECE] = _piece(values[at : at + _PIECE] - largest, factor)
    return weights


def at_least(least: int, values: Floats, largest: np.float32, factor: np.float32) -> tuple[Ids, Ids]:
    """Places, ascending, and weights of the tokens that weigh so much, 1 or more."""
    # Tokens a quarter as likely are lighter, however they are rounded.
    lowest = float(largest) + (math.log2(least) - SCALE_BITS - 2.0) / float(factor)
    places = (values >= np.float32(max(lowest, -HUGE))).nonzero()[0]
    weights = weights_of(values[places], largest, factor)
    heavy = weights >= least
    return places[heavy], weights[heavy]


def _piece(levels: Floats, factor: np.float32) -> Floats:
    """2**(40 + level), rounded, of values less the largest one. Every step rounds to float32, so that other code can do
    the same. `levels` is used up."""
    levels *= factor
    np.maximum(levels, LOWEST, out=levels)
    rounded = levels + _ROUNDER
    levels -= rounded - _ROUNDER
    power = levels * _POLYNOMIAL[0]
    power += _POLYNOMIAL[1]
    for coefficient in _POLYNOMIAL[2:]:
        power *= levels
        power += coefficient
    # Times a power of two: the exponent is added where floats have it.
    exponents = rounded.view(np.int32)
    exponents <<= _MANTISSA_BITS
    bits = power.view(np.int32)
    bits += exponents
    return np.rint(power, out=power)


def goal(total: int, share: float) -> int:
    """How much of a sum of weights holds this share of it; grows with the sum."""
    return min(total, max(1, math.ceil(share * float(total))))


def ranked(order: Ids, places: Ids) -> Ids:
    """These places, those largest in `order` first, the lower one first among equals."""
    # Keys that name their places: sorting them alone is three times as fast as finding out their order.
    keys = places - (order << PLACE_BITS)
    keys.sort()
    keys &= (1 << PLACE_BITS) - 1
    return keys


def heaviest(weights: Ids, share: float) -> Ids:
    """Places of the fewest tokens, the heaviest first, that hold their share of the sum; ascending. The lower one first
    among equals."""
    total = int(weights.sum())
    needed = goal(total, share)
    # All that are no heavier than this are not what is needed.
    places = (weights > (total - needed) // len(weights)).nonzero()[0]
    first = ranked(weights[places], places)
    kept = first[: int(weights[first].cumsum().searchsorted(needed)) + 1]
    kept.sort()
    return kept


def holding(weights: Ids, order: Ids, share: float) -> Ids:
    """Places of the fewest tokens, those largest in `order` first, that hold their share of the sum; ascending. The
    lower one first among equals."""
    needed = goal(int(weights.sum()), share)
    width = _CANDIDATES
    while True:
        found = np.flatnonzero(order >= threshold(order, width)) if width < len(order) else np.arange(len(order))
        first = ranked(order[found], found)
        at = int(weights[first].cumsum().searchsorted(needed))
        if at < len(first):
            return np.sort(first[: at + 1])
        width *= _GROWTH


def threshold(values: Floats | Ids, count: int) -> np.float32 | np.int64:
    """Something that at least `count` values reach, and not many more: the largest of columns tell."""
    columns = len(values) // BLOCK
    if count <= columns // 2:
        tops = values[: columns * BLOCK].reshape(BLOCK, columns).max(axis=0)
        return np.partition(tops, columns - count)[columns - count]
    return np.partition(values, len(values) - count)[len(values) - count]


def drawn(weights: Ids, uniform: float) -> int:
    """The place of the token that a number in [0, 1) draws: the inverse of the distribution function."""
    if len(weights) <= _SHORT:
        ends = weights.cumsum()
        return int(ends.searchsorted(_target(int(ends[-1]), uniform), side="right"))
    ends = _block_sums(weights).cumsum()
    target = _target(int(ends[-1]), uniform)
    block = int(ends.searchsorted(target, side="right"))
    before = int(ends[block - 1]) if block else 0
    inside = weights[block * BLOCK : (block + 1) * BLOCK].cumsum()
    return block * BLOCK + int(inside.searchsorted(target - before, side="right"))


def _target(total: int, uniform: float) -> int:
    """The weight before which those of the drawn token and of the earlier ones end."""
    return min(total - 1, int(uniform * float(total)))


def _block_sums(weights: Ids) -> Ids:
    whole = len(weights) // BLOCK * BLOCK
    sums = weights[:whole].reshape(-1, BLOCK).sum(axis=1)
    return sums if whole == len(weights) else np.append(sums, weights[whole:].sum())
