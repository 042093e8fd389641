"""Packs the rows of contexts into a batch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from pie_wire.errors import InternalError

from pie_engine.passes.batch import AdaptedRows, Batch, Tree, Unknown, sums_before
from pie_engine.passes.outputs import HiddenProbe, Int32Array, Output, PagesProbe, Sampler
from pie_engine.passes.page_moves import Moves, PageLoad
from pie_engine.passes.segment import AdapterSlots, Segment


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
    slots. InternalError if one that writes has too few of them."""
    tokens, positions, pages = _ints(), _ints(), _ints()
    row_ptr, page_ptr = [0], [0]
    outputs: list[Output] = []
    logit_rows: dict[int, None] = {}
    hidden_rows: dict[int, None] = {}
    adapted: dict[AdapterSlots, list[int]] = {}
    trees: list[Tree] = []
    unknown: list[Unknown] = []
    for segment in segments:
        begin = row_ptr[-1]
        tokens.extend(segment.tokens)
        positions.extend(segment.positions)
        pages.extend(segment.pages)
        end = len(tokens)
        row_ptr.append(end)
        page_ptr.append(len(pages))
        if segment.adapters:
            adapted.setdefault(segment.adapters, []).extend(range(begin, end))
        if segment.parents:
            trees.append(Tree(end - len(segment.parents) - 1, len(outputs), segment.parents))
        if segment.open_rows and isinstance(sampler := segment.outputs[0].spec, Sampler):
            unknown.append(Unknown(end - segment.open_rows, segment.open_rows, sampler))
        for output in segment.outputs:
            row, spec = begin + output.row, output.spec
            outputs.append(Output(row, output.position, spec, output.history))
            if isinstance(spec, Sampler):
                logit_rows[row] = None
            elif isinstance(spec, HiddenProbe):
                hidden_rows[row] = None
            elif not isinstance(spec, PagesProbe):
                logit_rows[row] = None
    segment_rows, tables, table = _int32(row_ptr), _int32(page_ptr), np.asarray(pages)
    row_slots, write_slots = _slots(segments, segment_rows, tables, table, page_size, scratch_page)
    causal = all(segment.masks is None for segment in segments)
    intervals, interval_ptr = _upto_own_slot(row_slots) if causal else _masked(segments)
    return Batch(
        page_size=page_size,
        tokens=np.asarray(tokens),
        positions=np.asarray(positions),
        row_slots=row_slots,
        write_slots=write_slots,
        interval_ptr=interval_ptr,
        intervals=intervals,
        segment_rows=segment_rows,
        page_ptr=tables,
        pages=table,
        copies=_int32(copies).reshape(-1, 2),
        causal=causal,
        outputs=tuple(outputs),
        logit_rows=_int32(sorted(logit_rows)),
        hidden_rows=_int32(sorted(hidden_rows)),
        adapted=tuple(AdaptedRows(adapters, _int32(rows)) for adapters, rows in adapted.items()),
        moves=moves,
        trees=tuple(trees),
        unknown=tuple(unknown),
        loads=tuple(loads),
    )


def _slots(
    segments: Sequence[Segment],
    segment_rows: Int32Array,
    page_ptr: Int32Array,
    pages: Int32Array,
    page_size: int,
    scratch_page: int,
) -> tuple[Int32Array, Int32Array]:
    """Logical slots of all rows, and the physical ones that take their KV."""
    counts = np.diff(segment_rows)
    firsts = _int32([segment.first_slot for segment in segments])
    # What all rows of a segment have in common: its first slot less its first row, its page table, whether it writes.
    row_slots = np.repeat(firsts - segment_rows[:-1], counts) + np.arange(segment_rows[-1], dtype=np.int32)
    page, offset = np.divmod(row_slots, np.int32(page_size))
    reads = np.repeat(np.asarray([not segment.write_kv for segment in segments], dtype=bool), counts)
    page[reads] = 0
    if (page >= np.repeat(np.diff(page_ptr), counts)).any():
        raise InternalError("a row is beyond the pages of its segment")
    write_slots = pages[np.repeat(page_ptr[:-1], counts) + page] * np.int32(page_size) + offset
    write_slots[reads] = scratch_page * page_size
    return row_slots, write_slots


def _upto_own_slot(row_slots: Int32Array) -> tuple[Int32Array, Int32Array]:
    """Intervals and their starts for rows that see every slot up to and with their own."""
    intervals = np.zeros((len(row_slots), 2), dtype=np.int32)
    intervals[:, 1] = row_slots
    intervals[:, 1] += 1
    return intervals, np.arange(len(row_slots) + 1, dtype=np.int32)


def _masked(segments: Sequence[Segment]) -> tuple[Int32Array, Int32Array]:
    """The same where some rows have masks of their own."""
    ends, widths = _ints(), _ints()
    for segment in segments:
        first = segment.first_slot + 1
        for mask in segment.masks or (((0, end),) for end in range(first, first + len(segment.tokens))):
            for interval in mask:
                ends.extend(interval)
            widths.append(len(mask))
    return np.asarray(ends).reshape(-1, 2), sums_before(np.asarray(widths))


def _ints() -> array[int]:
    """32-bit integers to collect in: one array is added to another without looking at its items, and numpy takes over
    its memory."""
    return array("i")


def _int32(values: Sequence[int] | Sequence[tuple[int, int]]) -> Int32Array:
    return np.asarray(values, dtype=np.int32)
