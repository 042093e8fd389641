"""How short pages are, as a level that does not flicker."""

from __future__ import annotations

from typing import Literal

from pie_wire.messages.runner import Pressure

Level = Literal["low", "medium", "high"]

_MEDIUM = 0.8
_HIGH = 1.0
_BACK = 0.1
"""How far demand must fall below a border to cross it downwards."""


class PressureGauge:
    """Demand is the part of the pool that contexts own or their requests wait for: above 1 when somebody waits.

    Level: medium from 0.8, high above 1.0; downwards 0.1 lower.
    """

    def __init__(self) -> None:
        self.level: Level = "low"
        self.demand = 0.0
        self.price = 0.0

    def update(self, owned: int, waited: int, total: int, price: float) -> bool:
        """Pages owned and waited for, and the bid of the last victim; True if the level has changed."""
        self.demand = (owned + waited) / total
        before = self.level
        high = _HIGH - (_BACK if before == "high" else 0.0)
        medium = _MEDIUM - (0.0 if before == "low" else _BACK)
        if self.demand > high:
            self.level = "high"
        else:
            self.level = "medium" if self.demand >= medium else "low"
        self.price = 0.0 if self.level == "low" else price
        return self.level != before

    def reading(self) -> Pressure:
        """For runners."""
        return Pressure(self.level, round(self.demand, 4), self.price)
