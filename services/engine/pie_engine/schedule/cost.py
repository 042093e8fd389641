"""What a step will take, learned from what steps took."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from pie_engine.passes.batch import Load

_UNITS = np.array([1.0, 1.0, 1024.0, 1e6, 1.0])
"""Steps, rows, slots, row-slots and outputs that one coefficient stands for."""
_START_MS = np.array([5.0, 0.5, 0.2, 20.0, 0.1])
"""Pessimistic, so that the first steps are short rather than long."""
_FLOOR_MS = np.array([0.0, 1e-3, 0.0, 0.0, 0.0])
_FORGET = 0.99
_LEARN = 0.1
"""Weight of the latest step in the mean."""
_OUTLIER = 8.0
_FREEDOM = 1e4


class CostModel:
    """`ms = a + b * rows + c * slots + d * area + e * outputs` (see `Load`), fitted by recursive least squares with
    exponential forgetting (Haykin, Adaptive Filter Theory, ch. 9) on relative errors, so that a step of 5 ms teaches as
    much as one of 100 ms. A step that took many times the estimate counts as a bounded multiple: one stall must not
    shrink the next hundred steps."""

    def __init__(self) -> None:
        self._ms: NDArray[np.float64] = _START_MS.copy()
        self._inverse: NDArray[np.float64] = np.eye(5)
        self.mean_ms = 0.0
        """What the last steps took, a moving mean; 0 before the first."""
        self._settle()

    def estimate(self, load: Load) -> float:
        """Milliseconds."""
        step, row, slot, area, output = self._per
        return step + row * load.rows + slot * load.slots + area * load.area + output * load.outputs

    def row_share(self, load: Load) -> float:
        """What one more row would take, over what each row of `load` takes with its part of all that rows share: how
        likely a guess must be right to be worth its row. 0 without rows."""
        if not load.rows:
            return 0.0
        step, row, slot, _, output = self._per
        own = row + (slot * load.slots + output * load.outputs) / load.rows
        return own / (own + step / load.rows)

    def observe(self, load: Load, ms: float) -> None:
        """A step of this size took `ms`."""
        self.mean_ms += (ms - self.mean_ms) * (_LEARN if self.mean_ms else 1.0)
        ms = max(min(ms, _OUTLIER * self.estimate(load) + 1.0), 0.01)
        features = _features(load) / ms
        gain = self._inverse @ features / (_FORGET + features @ self._inverse @ features)
        self._ms = self._ms + gain * (1.0 - features @ self._ms)
        inverse = (self._inverse - np.outer(gain, features @ self._inverse)) / _FORGET
        # Without news of a kind of load its uncertainty would grow for ever.
        if np.trace(inverse) < _FREEDOM:
            self._inverse = inverse
        self._settle()

    def rows_within(self, ms: float, load: Load, first_slot: int, asked: float = 0.0) -> int:
        """How many rows of a prefill that starts at `first_slot` fit into a step of `ms` beside `load`. A row of it has
        `asked` outputs."""
        left = ms - self.estimate(load)
        if left <= 0:
            return 0
        _, per_row, _, per_area, per_output = self._per
        linear = per_row + per_output * asked + per_area * first_slot
        # Positive root of per_area * n^2 + linear * n = left, in the form that is stable for a small first coefficient.
        return int(2 * left / (linear + sqrt(linear * linear + 4 * per_area * left)))

    def _settle(self) -> None:
        """Plain numbers: an estimate is made for every request of every step."""
        self._per: list[float] = (np.maximum(self._ms, _FLOOR_MS) / _UNITS).tolist()


def _features(load: Load) -> NDArray[np.float64]:
    return np.array([1.0, float(load.rows), float(load.slots), float(load.area), float(load.outputs)]) / _UNITS
