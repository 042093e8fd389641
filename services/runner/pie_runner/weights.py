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


def level_factor(temperature: float) -> np.float32:
    """By what a difference of values becomes one of levels."""
    return np.float32(min(max(_LOG2_E / temperature, TINY), HUGE))


def weights_of(values: Floats, largest: np.float32, factor: np.float32) -> Ids:
    """Weights of values, of which `largest` is the largest."""
    weights = np.empty(len(values), dtype=np.int64)
    # In pieces that stay in the cache: five times as fast as all at once.
    with np.errstate(over="ignore"):
        for at in range(0, len(values), _PIECE):
            weights[at : at + _PIECE] = _piece(values[at : at + _PIECE] - largest, factor)
    return weights


def _piece(levels: Floats, factor: np.float32) -> Floats:
    """2**(40 + level), rounded, of values less the largest one. Every step rounds to float32, so that other code can do
    the same."""
    levels *= factor
    np.maximum(levels, LOWEST, out=levels)
    whole = np.rint(levels)
    levels -= whole
    power = np.full_like(levels, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        power *= levels
        power += coefficient
    exponents = whole.astype(np.int32)
    exponents += 127 + SCALE_BITS
    exponents <<= 23
    power *= exponents.view(np.float32)
    return np.rint(power, out=power)


def holding(weights: Ids, order: Ids, share: float) -> Ids:
    """Places of the fewest tokens, those largest in `order` first, that hold their share of the sum; ascending. The
    lower one first among equals."""
    total = int(weights.sum())
    goal = min(total, max(1, math.ceil(share * float(total))))
    width = _CANDIDATES
    while True:
        found = np.flatnonzero(order >= threshold(order, width)) if width < len(order) else np.arange(len(order))
        # Keys that name their places: sorting them alone is three times as fast as finding out their order.
        ranked = np.sort(found - (order[found] << PLACE_BITS)) & ((1 << PLACE_BITS) - 1)
        at = int(np.searchsorted(weights[ranked].cumsum(), goal))
        if at < len(ranked):
            kept = np.zeros(len(order), dtype=np.bool_)
            kept[ranked[: at + 1]] = True
            return np.flatnonzero(kept)
        width *= _GROWTH


def threshold(values: Floats | Ids, count: int) -> np.float32 | np.int64:
    """Something that at least `count` values reach, and not many more: the largest of columns tell."""
    columns = len(values) // BLOCK
    if count <= columns // 2:
        tops = values[: columns * BLOCK].reshape(BLOCK, columns).max(axis=0)
        return np.partition(tops, columns - count)[columns - count]
    return np.partition(values, len(values) - count)[len(values) - count]


def block_sums(weights: Ids) -> Ids:
    whole = len(weights) // BLOCK * BLOCK
    sums = weights[:whole].reshape(-1, BLOCK).sum(axis=1)
    return sums if whole == len(weights) else np.append(sums, weights[whole:].sum())
