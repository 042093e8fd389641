"""The one form in which work reaches a device: flat arrays over rows, requests and pages.

Vocabulary. A *slot* is a place for the KV of one token. Inside a context slots are counted 0, 1, 2, ... (logical);
in the pool, slot `page * page_size + offset` (physical). A *row* is one token that the pass feeds to the model. The
mask of a row, whatever its kind, is a set of intervals over the logical slots of its own context.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pie_engine.passes.outputs import (
    EntropyProbe,
    HiddenProbe,
    Int32Array,
    LogitsProbe,
    LogProbsProbe,
    Output,
    PagesProbe,
    Sampler,
    TopKProbe,
)

__all__ = [
    "AdaptedRows",
    "AdapterSlots",
    "Batch",
    "EntropyProbe",
    "HiddenProbe",
    "Int32Array",
    "Intervals",
    "Load",
    "LogProbsProbe",
    "LogitsProbe",
    "Output",
    "Sampler",
    "Segment",
    "TopKProbe",
    "build",
]

Intervals: TypeAlias = Sequence[tuple[int, int]]
AdapterSlots: TypeAlias = tuple[tuple[int, float], ...]
"""Adapters by the slots their device keeps them under, ascending, each with the weight of what it adds."""


# Segments and loads are not frozen: several are made per request and step, and freezing makes that slow.
@dataclass(slots=True)
class Segment:
    """The rows of one context in a pass.

    `first_slot` is the logical slot of the first row. With `write_kv` False the KV of the rows is in the pages already
    (perhaps shared pages), so they only ask. `pages` covers every slot up to the last row's. `masks`, when given, has
    the visible slot intervals of every row; without it a row sees every slot up to and with its own. Output rows count
    from the segment's first row.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    first_slot: int
    pages: Sequence[int]
    outputs: Sequence[Output] = ()
    write_kv: bool = True
    masks: Sequence[Intervals] | None = None
    adapters: AdapterSlots = ()
    parents: Sequence[int] = ()
    """With a tree of guesses as its last rows: for each the guess it follows, -1 for the row before the tree. The
    segment's outputs are then one token for that row and one for each guess."""
    open_rows: int = 0
    """The tokens of so many last rows are still to be guessed, as the segment's first output draws tokens."""


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


Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class PageLoad:
    """Pages to write from bytes, and their content: buffers with whole pages, in this order."""

    pages: Sequence[int]
    data: Sequence[Buffer]

    def parts(self) -> Iterator[tuple[Sequence[int], NDArray[np.uint8]]]:
        """Pages with their content `[n, page_bytes]`, buffer by buffer."""
        size = sum(map(len, self.data)) // max(1, len(self.pages))
        at = 0
        for part in self.data:
            # Tensors want memory that may be written to, and a message's may not.
            blocks = np.frombuffer(bytearray(part), dtype=np.uint8).reshape(-1, size)
            yield self.pages[at : at + len(blocks)], blocks
            at += len(blocks)


@dataclass(slots=True)
class Load:
    """What a pass costs: rows; KV slots read by one-row segments; rows times slots of longer ones."""

    rows: int = 0
    slots: int = 0
    area: int = 0

    def plus(self, rows: int, stop: int) -> Load:
        """With one more segment of `rows` rows that ends at slot `stop`."""
        if rows == 1:
            return Load(self.rows + 1, self.slots + stop, self.area)
        return Load(self.rows + rows, self.slots, self.area + rows * stop)


@dataclass(slots=True)
class Moves:
    """Copies between pool and host memory, made ahead of everything else in a pass: `out` are (page, slot) in order,
    then `back` are (slot, page). The device notes what they took, and that they are done."""

    out: Sequence[tuple[int, int]]
    back: Sequence[tuple[int, int]]
    seconds: float = 0.0
    done: bool = False


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
        return Load(self.rows, int(ends[single].sum()), int((counts * ends)[~single].sum()))

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
            interval_ptr=_before(widths[rows]),
            intervals=self.intervals[np.repeat(rows, widths)],
            segment_rows=_before(rows)[self.segment_rows],
            page_ptr=self.page_ptr,
            pages=self.pages,
            copies=self.copies,
            causal=self.causal,
            outputs=tuple(outputs),
            logit_rows=np.asarray(sorted({output.row for output in outputs}), dtype=np.int32),
            hidden_rows=np.asarray([], dtype=np.int32),
            moves=None if self.moves is None else Moves(self.moves.out, self.moves.back),
        )


def _before(counts: NDArray[np.int32] | NDArray[np.bool_]) -> Int32Array:
    """`[n + 1]`: the sum of what comes before each."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def build(
    segments: Sequence[Segment],
    *,
    page_size: int,
    scratch_page: int,
    copies: Sequence[tuple[int, int]] = (),
    moves: Moves | None = None,
    loads: Sequence[PageLoad] = (),
) -> Batch:
    """Pack segments; none, when there are only `moves`. Every segment has at least one row, and pages for all its
    slots."""
    tokens, positions, row_slots, write_slots = _ints(), _ints(), _ints(), _ints()
    intervals, interval_ptr = _ints(), _ints(0)
    segment_rows, page_ptr, pages = _ints(0), _ints(0), _ints()
    outputs: list[Output] = []
    logit_rows: dict[int, None] = {}
    hidden_rows: dict[int, None] = {}
    adapted: dict[AdapterSlots, list[int]] = {}
    trees: list[Tree] = []
    unknown: list[Unknown] = []
    scratch = scratch_page * page_size
    causal = all(segment.masks is None for segment in segments)
    for segment in segments:
        first, count, row0 = segment.first_slot, len(segment.tokens), len(tokens)
        tokens.extend(segment.tokens)
        positions.extend(segment.positions)
        if count == 1:
            row_slots.append(first)
        else:
            row_slots.extend(range(first, first + count))
        if not segment.write_kv:
            write_slots.extend([scratch] * count)
        elif count == 1:
            write_slots.append(segment.pages[first // page_size] * page_size + first % page_size)
        else:
            slots = np.arange(first, first + count)
            table = np.asarray(segment.pages, dtype=np.int64)
            write_slots.extend((table[slots // page_size] * page_size + slots % page_size).tolist())
        if not causal:
            for mask in segment.masks or (((0, end),) for end in range(first + 1, first + count + 1)):
                for start, end in mask:
                    intervals.append(start)
                    intervals.append(end)
                interval_ptr.append(len(intervals) // 2)
        pages.extend(segment.pages)
        page_ptr.append(len(pages))
        segment_rows.append(row0 + count)
        if segment.adapters:
            adapted.setdefault(segment.adapters, []).extend(range(row0, row0 + count))
        if segment.parents:
            trees.append(Tree(row0 + count - len(segment.parents) - 1, len(outputs), segment.parents))
        if segment.open_rows and isinstance(sampler := segment.outputs[0].spec, Sampler):
            unknown.append(Unknown(row0 + count - segment.open_rows, segment.open_rows, sampler))
        for output in segment.outputs:
            row = row0 + output.row
            outputs.append(Output(row, output.position, output.spec, output.history))
            if isinstance(output.spec, HiddenProbe):
                hidden_rows[row] = None
            elif not isinstance(output.spec, PagesProbe):
                logit_rows[row] = None
    if causal:
        every, starts = _upto_own_slot(_int32(row_slots))
    else:
        every, starts = _int32(intervals).reshape(-1, 2), _int32(interval_ptr)
    return Batch(
        page_size=page_size,
        tokens=_int32(tokens),
        positions=_int32(positions),
        row_slots=_int32(row_slots),
        write_slots=_int32(write_slots),
        interval_ptr=starts,
        intervals=every,
        segment_rows=_int32(segment_rows),
        page_ptr=_int32(page_ptr),
        pages=_int32(pages),
        copies=np.asarray(copies, dtype=np.int32).reshape(-1, 2),
        causal=causal,
        outputs=tuple(outputs),
        logit_rows=_int32(_ints(*sorted(logit_rows))),
        hidden_rows=_int32(_ints(*sorted(hidden_rows))),
        adapted=tuple(AdaptedRows(adapters, _int32(_ints(*rows))) for adapters, rows in adapted.items()),
        moves=moves,
        trees=tuple(trees),
        unknown=tuple(unknown),
        loads=tuple(loads),
    )


def _upto_own_slot(row_slots: Int32Array) -> tuple[Int32Array, Int32Array]:
    """Intervals and their starts for rows that see every slot up to and with their own."""
    intervals = np.zeros((len(row_slots), 2), dtype=np.int32)
    intervals[:, 1] = row_slots
    intervals[:, 1] += 1
    return intervals, np.arange(len(row_slots) + 1, dtype=np.int32)


def _ints(*values: int) -> array[int]:
    """32-bit integers to collect in: one array is added to another without looking at its items."""
    return array("i", values)


def _int32(values: array[int]) -> Int32Array:
    """The same memory, for numpy."""
    return np.asarray(values)
