"""A small model that guesses for the large one.

Both keep KV for the same slots: the draft model has a pool of the same pages, and every row of every pass goes through
it first. So forks, shared prefixes and copies concern it no further, and whatever may be wrong with its KV costs right
guesses, never a right token.

Its guesses are drawn with the run's own sampler, seed and positions: where two models agree on a distribution, equal
numbers draw equal tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import structlog

from pie_engine.passes.batch import Batch, Unknown
from pie_engine.passes.build import build
from pie_engine.passes.device import Device, LoadedAdapter, Result
from pie_engine.passes.outputs import Output
from pie_engine.passes.segment import Segment

_QUIET_SECONDS = 60.0

log = structlog.get_logger("pie.engine")


class DraftedDevice:
    """`Device`: `device`, with tokens that batches leave open guessed by `draft`. A draft model that fails has made no
    guesses: the pass goes on with wrong ones."""

    def __init__(
        self, device: Device, draft: Device, *, scratch_page: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Both have pools of `scratch_page` pages of one size. `clock` gives seconds: failures of the draft model are
        logged at most once a minute."""
        self._device = device
        self._draft = draft
        self._scratch_page = scratch_page
        self._clock = clock
        self._failures = 0
        self._quiet_until = clock()

    def execute(self, batch: Batch) -> list[Result]:
        known = known_part(batch)
        try:
            self._guess(batch, known)
        except Exception as exc:  # noqa: BLE001 - whatever it is, only guesses are lost
            self._failed(exc)
        results = self._device.execute(batch)
        if batch.moves is not None and known.moves is not None:
            batch.moves.seconds += known.moves.seconds
        return results

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        return self._device.read_adapter(folder, most)

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        self._device.keep_adapter(slot, adapter)

    def drop_adapter(self, slot: int) -> None:
        self._device.drop_adapter(slot)

    def _failed(self, cause: Exception) -> None:
        self._failures += 1
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.warning("the draft model failed: its guesses are missing", failures=self._failures, exc_info=cause)

    def _guess(self, batch: Batch, known: Batch) -> None:
        """Feed the `known` rows, then guess by guess the open ones; fills in `batch.tokens`."""
        open_ = list(batch.unknown)
        results = self._draft.execute(known)
        for index in range(max((unknown.count for unknown in open_), default=0)):
            for unknown, result in zip(open_, results, strict=True):
                # A guess that failed is a wrong guess.
                batch.tokens[unknown.row + index] = result if isinstance(result, int) else 0
            rows = [self._row(batch, unknown, index) for unknown in open_]
            results = self._draft.execute(build(rows, page_size=batch.page_size, scratch_page=self._scratch_page))
            # Those that want another guess have asked for it, in this order.
            open_ = [unknown for unknown in open_ if unknown.count > index + 1]

    def _row(self, batch: Batch, unknown: Unknown, index: int) -> Segment:
        """The row of one guess alone, asking for the next one if there is to be one."""
        row = unknown.row + index
        segment = int(np.searchsorted(batch.segment_rows, row, side="right")) - 1
        position = int(batch.positions[row])
        last = index + 1 == unknown.count
        return Segment(
            tokens=[int(batch.tokens[row])],
            positions=[position],
            first_slot=int(batch.row_slots[row]),
            pages=batch.pages[batch.page_ptr[segment] : batch.page_ptr[segment + 1]].tolist(),
            outputs=() if last else (Output(0, position + 1, unknown.sampler),),
        )


def known_part(batch: Batch) -> Batch:
    """The batch without the rows of open tokens, asking for the first guess of each run that wants some."""
    known = np.ones(batch.rows, dtype=bool)
    for unknown in batch.unknown:
        known[unknown.row : unknown.row + unknown.count] = False
    before = np.concatenate([[0], np.cumsum(known)])
    asked = [
        Output(int(before[unknown.row]) - 1, int(batch.positions[unknown.row]), unknown.sampler)
        for unknown in batch.unknown
    ]
    return batch.part(known, asked)
