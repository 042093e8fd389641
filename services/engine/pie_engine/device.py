"""The seam between the engine's bookkeeping and whatever computes: batches in, results out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pie_wire.errors import DeviceError

from pie_engine.batch import Batch


@dataclass(frozen=True, slots=True)
class TopK:
    """Answer to a `TopKProbe`, most likely first."""

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]


Result: TypeAlias = int | TopK | NDArray[np.float32] | DeviceError
"""Answer to one output: a token for a sampler, `TopK`, logits `[vocab]`, or why this row alone has failed."""


class Device(Protocol):
    """Runs one pass at a time. Any exception means that the whole pass failed and no request in it has a result."""

    def execute(self, batch: Batch) -> list[Result]:
        """Results of the batch's outputs, in order."""
        ...
