"""Random numbers of sampling: functions of (seed, absolute position) and nothing else.

A request therefore draws the same numbers alone or in any batch, decoded ahead or step by step, before or after its
pages were evicted. The mixer is splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> NDArray[np.float64]:
    """One number in (0, 1) per (seed, position). Seeds are taken modulo 2**64."""
    seed = np.fromiter((value & 0xFFFFFFFFFFFFFFFF for value in seeds), dtype=np.uint64, count=len(seeds))
    position = np.asarray(positions, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seed + _GOLDEN) + _GOLDEN * (position + np.uint64(1)))
    # 52 bits, so that adding a half is exact and 1.0 is never reached.
    return ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
