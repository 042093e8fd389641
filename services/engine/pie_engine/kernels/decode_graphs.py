"""Decodes of a few fixed sizes, each recorded once and replayed: a pass of one row per context is so short on a GPU
that starting its kernels one by one takes longer than they do.

Unverified: nobody has run this on a GPU yet. What is here (which size, what is padded with what, what is kept) runs and
is tested without one; see `models/decode_pass.py` for the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from torch import Tensor

from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import Int32Array

ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
"""Sizes in rows: a batch takes the next larger one."""
PAGES: Final = (8, 16, 32, 64, 128)
"""Sizes in pages of the longest context. Longer ones are not padded: attention is most of their time anyway."""
MOST_GRAPHS: Final = 24
"""Kept at once, the least recently used go."""

log = structlog.get_logger("pie.engine")


@dataclass(frozen=True, slots=True)
class DecodeArrays:
    """A batch padded to `[B]` rows and `[B, W]` pages. Rows beyond the batch read and write the scratch page only."""

    tokens: Int32Array
    positions: Int32Array
    row_slots: Int32Array
    write_slots: Int32Array
    pages: NDArray[np.int32]


class Graph(Protocol):
    """A recorded pass of a fixed size."""

    def replay(self, arrays: DecodeArrays) -> Tensor:
        """Logits `[B, vocab]`, valid until the next replay of any graph."""
        ...


Capture = Callable[[int, int], Graph]
"""Records a pass of so many rows with so many pages each."""


class DecodeGraphs:
    """Replays batches that fit, recording each size at first use. A size that cannot be recorded ends it for good: all
    batches run one by one from then on."""

    def __init__(self, capture: Capture, *, scratch_page: int) -> None:
        self._capture = capture
        self._scratch_page = scratch_page
        self._graphs: OrderedDict[tuple[int, int], Graph] = OrderedDict()
        self.broken = False

    def run(self, batch: Batch) -> Tensor | None:
        """Logits of `batch.logit_rows`; None for a batch that must run otherwise."""
        size = None if self.broken else size_of(batch)
        if size is None:
            return None
        graph = self._graph(size)
        if graph is None:
            return None
        return graph.replay(padded(batch, *size, self._scratch_page))[batch.logit_rows.tolist()]

    def _graph(self, size: tuple[int, int]) -> Graph | None:
        found = self._graphs.get(size)
        if found is None:
            try:
                found = self._capture(*size)
            except Exception as exc:  # noqa: BLE001 - whatever a driver says, the pass can run without
                log.warning("decodes cannot be recorded: they run kernel by kernel", size=size, reason=str(exc))
                self.broken = True
                self._graphs.clear()
                return None
            self._graphs[size] = found
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(size)
        return found


def size_of(batch: Batch) -> tuple[int, int] | None:
    """Rows and pages of the graph for a batch; None if there can be none: it has several rows of one context, masks,
    adapters or hidden states, or is too large."""
    if not batch.rows or batch.rows != batch.segments or not batch.causal or batch.adapted or batch.hidden_rows.size:
        return None
    longest = int((batch.row_slots.max()) // batch.page_size) + 1
    rows = next((size for size in ROWS if size >= batch.rows), None)
    pages = next((size for size in PAGES if size >= longest), None)
    return None if rows is None or pages is None else (rows, pages)


def padded(batch: Batch, rows: int, width: int, scratch_page: int) -> DecodeArrays:
    """The batch's arrays with rows and pages behind them. A page table's entries behind the row's own slot are not
    read, so they may be any page."""
    pages = np.full((rows, width), scratch_page, dtype=np.int32)
    for row in range(batch.rows):
        table = batch.pages[batch.page_ptr[row] : batch.page_ptr[row + 1]][:width]
        pages[row, : len(table)] = table

    def longer(array: Int32Array, value: int) -> Int32Array:
        return np.concatenate([array, np.full(rows - batch.rows, value, dtype=np.int32)])

    return DecodeArrays(
        longer(batch.tokens, 0),
        longer(batch.positions, 0),
        longer(batch.row_slots, 0),
        longer(batch.write_slots, scratch_page * batch.page_size),
        pages,
    )
