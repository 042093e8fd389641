"""The one form in which work reaches a device: flat arrays over rows, requests and pages.

Vocabulary. A *slot* is a place for the KV of one token. Inside a context slots are counted 0, 1, 2, ... (logical);
in the pool, slot `page * page_size + offset` (physical). A *row* is one token that the pass feeds to the model. The
mask of a row, whatever its kind, is a set of intervals over the logical slots of its own context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pie_engine.passes.outputs import Int32Array, Output, Sampler
from pie_engine.passes.page_moves import Moves, PageLoad
from pie_engine.passes.segment import AdapterSlots


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    """The rows of a batch, ascending, that one set of adapters applies to."""

    adapters: AdapterSlots
    rows: Int32Array


@dataclass(frozen=True, slots=True)
class Tree:
    """Guesses in a batch: guess i is row `row + 1 + i`, its token output `output + 1 + i`, and it follows guess
    `parents[i]`, or row `row` for -1."""

    row: int
    output: int
    parents: Sequence[int]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Rows [row, row + count) whose tokens a draft model puts in their places, drawn with `sampler`."""

    row: int
    count: int
    sampler: Sampler


@dataclass(slots=True)
class Load:
    """What a pass costs: rows; KV slots read by one-row segments; rows times slots of longer ones; outputs."""

    rows: int = 0
    slots: int = 0
    area: int = 0
    outputs: int = 0

    def add(self, rows: int, stop: int, outputs: int = 0) -> None:
        """One more segment of `rows` rows that ends at slot `stop`, asked so much."""
        self.rows += rows
        self.outputs += outputs
        if rows == 1:
            self.slots += stop
        else:
            self.area += rows * stop

    def plus(self, rows: int, stop: int, outputs: int = 0) -> Load:
        """With one more segment."""
        more = Load(self.rows, self.slots, self.area, self.outputs)
        more.add(rows, stop, outputs)
        return more


@dataclass(frozen=True, slots=True)
class Batch:
    """One pass over the model. Shapes: T rows, R segments, P page entries, N intervals, O outputs.

    tokens, positions   [T]
    row_slots           [T]     logical slot of the row
    write_slots         [T]     physical slot that takes the row's KV; in the scratch page where nothing is to be kept
    interval_ptr        [T+1]   intervals[interval_ptr[i] : interval_ptr[i + 1]] are those of row i
    intervals           [N, 2]  visible logical slots, [start, end)
    segment_rows        [R+1]   segment_rows[r] : segment_rows[r + 1] are the rows of segment r
    page_ptr, pages     [R+1], [P]  pages[page_ptr[r] : page_ptr[r + 1]] is the page table of segment r
    loads               pages to write from bytes, after the moves
    copies              [C, 2]  pages (source, destination) to copy then
    causal              no row carries a mask of its own
    outputs             [O]     in order of segments; `Output.row` counts over the whole batch
    unknown             rows whose tokens are filled in by a draft model before the pass
    trees               guesses: the KV of those that are drawn has to be moved together, see `trees`
    adapted             the rows that adapters apply to, grouped by set; every row at most once
    logit_rows          [U]     rows that some output needs logits of, each once, ascending
    hidden_rows         [H]     rows whose hidden state is wanted, each once, ascending
    """

    page_size: int
    tokens: Int32Array
    positions: Int32Array
    row_slots: Int32Array
    write_slots: Int32Array
    interval_ptr: Int32Array
    intervals: Int32Array
    segment_rows: Int32Array
    page_ptr: Int32Array
    pages: Int32Array
    copies: Int32Array
    causal: bool
    outputs: tuple[Output, ...]
    logit_rows: Int32Array
    hidden_rows: Int32Array
    loads: tuple[PageLoad, ...] = ()
    adapted: tuple[AdaptedRows, ...] = ()
    moves: Moves | None = None
    trees: tuple[Tree, ...] = ()
    unknown: tuple[Unknown, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @property
    def segments(self) -> int:
        return len(self.segment_rows) - 1

    def load(self) -> Load:
        """The size of this pass as the cost model counts it."""
        counts = np.diff(self.segment_rows).astype(np.int64)
        ends = self.row_slots[self.segment_rows[1:] - 1].astype(np.int64) + 1
        single = counts == 1
        return Load(self.rows, int(ends[single].sum()), int((counts * ends)[~single].sum()), len(self.outputs))

    def part(self, rows: NDArray[np.bool_], outputs: Sequence[Output]) -> Batch:
        """The rows that are true in `rows` `[T]`, at least one of every segment, with other outputs (tokens only)
        and without adapters. Rows keep their slots and masks. Moves are the same, and yet to be made: whoever executes
        the part makes them in a pool of its own."""
        widths = np.diff(self.interval_ptr)
        return Batch(
            page_size=self.page_size,
            tokens=self.tokens[rows],
            positions=self.positions[rows],
            row_slots=self.row_slots[rows],
            write_slots=self.write_slots[rows],
            interval_ptr=sums_before(widths[rows]),
            intervals=self.intervals[np.repeat(rows, widths)],
            segment_rows=sums_before(rows)[self.segment_rows],
            page_ptr=self.page_ptr,
            pages=self.pages,
            copies=self.copies,
            causal=self.causal,
            outputs=tuple(outputs),
            logit_rows=np.asarray(sorted({output.row for output in outputs}), dtype=np.int32),
            hidden_rows=np.asarray([], dtype=np.int32),
            moves=None if self.moves is None else Moves(self.moves.out, self.moves.back),
        )


def sums_before(counts: NDArray[np.int32] | NDArray[np.bool_]) -> Int32Array:
    """`[n + 1]`: the sum of what comes before each."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
