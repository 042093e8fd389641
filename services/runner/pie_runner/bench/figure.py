"""One figure of the runner."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A median over `samples`. `must` and `wanted` bound it: the most it may be, or the least for `live-programs`."""

    name: str
    value: float
    unit: str
    must: float
    wanted: float
    samples: tuple[float, ...] = ()
    note: str = ""


def median(name: str, unit: str, samples: Sequence[float], must: float, wanted: float, note: str = "") -> Figure:
    """The figure of several measurements."""
    return Figure(name, statistics.median(samples), unit, must, wanted, tuple(samples), note)
