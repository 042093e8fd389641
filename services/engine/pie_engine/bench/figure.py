"""One figure beside the table of cases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A median. `must` is the most it may be, if there is a bound."""

    name: str
    value: float
    unit: str
    must: float | None = None
