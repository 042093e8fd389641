"""Masks of a request as slot intervals, the one form that batches carry.

A row's KV is written before later rows are computed, and long passes are computed in chunks: so a row sees slots up to
its own, never beyond.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from pie_wire.errors import BadField, TooLarge
from pie_wire.messages import engine as wire

from pie_engine.passes.segment import Intervals

MAX_INTERVALS = 65_536
"""Intervals that the rows of one pass may have."""


def rows_of(mask: wire.Mask, first_slot: int, count: int) -> list[Intervals | None]:
    """Intervals of rows at slots `first_slot`, ...; None where a row is causal.

    Raises BadField for a mask that does not fit the rows, TooLarge for one with too many intervals.
    """
    match mask.kind:
        case "causal":
            return [None] * count
        case "window":
            rows = _window_rows(mask, first_slot, count)
        case "runs":
            rows = _run_rows(mask.runs, first_slot, count)
        case "tree":
            rows = tree_rows(mask.parents, first_slot, count)
    return [None if row == [(0, first_slot + index + 1)] else row for index, row in enumerate(rows)]


def tree_rows(parents: Sequence[int], first_slot: int, count: int) -> list[Intervals]:
    """Row i sees all slots before the pass, its chain of `parents` (rows of this pass; -1: none) and itself."""
    if len(parents) != count:
        raise BadField(f"a tree needs a parent for each of the {count} rows, not {len(parents)}")
    stem: list[tuple[int, int]] = [(0, first_slot)] if first_slot else []
    rows: list[Intervals] = []
    total = 0
    for row, parent in enumerate(parents):
        if not -1 <= parent < row:
            raise BadField(f"row {row} cannot follow row {parent}: a parent comes before, or is -1")
        before = stem if parent < 0 else rows[parent]
        rows.append(_with_slot(before, first_slot + row))
        total = _counted(total, rows[row])
    return rows


def without(intervals: Intervals, hidden: Intervals) -> Intervals:
    """The intervals less the hidden ones; both are disjoint and ascend, and are gone through once."""
    left: list[tuple[int, int]] = []
    at = 0
    for low, high in intervals:
        seen = low
        while at < len(hidden) and hidden[at][0] < high:
            start, stop = hidden[at]
            if seen < start:
                left.append((seen, start))
            seen = max(seen, stop)
            if stop > high:
                # It may hide some of the next one too.
                break
            at += 1
        if seen < high:
            left.append((seen, high))
    return left


def covers(hidden: Intervals, intervals: Intervals) -> bool:
    """Nothing of the intervals is outside the hidden ones, which are disjoint, apart from each other, and ascend."""
    for low, high in intervals:
        index = bisect_right(hidden, low, key=lambda part: part[0])
        if not index or hidden[index - 1][1] < high:
            return False
    return True


def united(intervals: Intervals, start: int, stop: int) -> Intervals:
    """The intervals and the slots [start, stop), disjoint and ascending."""
    apart = [(low, high) for low, high in intervals if high < start or low > stop]
    touching = [(low, high) for low, high in intervals if not (high < start or low > stop)]
    low = min([start, *(low for low, _ in touching)])
    high = max([stop, *(high for _, high in touching)])
    return sorted([*apart, (low, high)])


def _window_rows(mask: wire.Mask, first_slot: int, count: int) -> list[Intervals]:
    if mask.window < 1 or mask.sink < 0:
        raise BadField(f"a window has at least 1 slot and a sink at least 0, not {mask.window} and {mask.sink}")
    rows: list[Intervals] = []
    total = 0
    for slot in range(first_slot, first_slot + count):
        start = slot + 1 - mask.window
        if start <= mask.sink:
            rows.append([(0, slot + 1)])
        elif mask.sink:
            rows.append([(0, mask.sink), (start, slot + 1)])
        else:
            rows.append([(start, slot + 1)])
        total = _counted(total, rows[-1])
    return rows


def _run_rows(runs: Sequence[Sequence[int]], first_slot: int, count: int) -> list[Intervals]:
    if len(runs) != count:
        raise BadField(f"masks by runs need a list for each of the {count} rows, not {len(runs)}")
    rows: list[Intervals] = []
    total = 0
    for row, lengths in enumerate(runs):
        rows.append(_run_row(lengths, first_slot + row, first_slot + count))
        total = _counted(total, rows[row])
    return rows


def _counted(total: int, row: Intervals) -> int:
    """The total with one row more, so that a mask is refused before all of it is made."""
    total += len(row)
    if total > MAX_INTERVALS:
        raise TooLarge(f"the masks of a pass have at most {MAX_INTERVALS} visible stretches in all: split the pass")
    return total


def _run_row(lengths: Sequence[int], slot: int, total: int) -> Intervals:
    """One row from alternating run lengths, the first one hidden."""
    if not lengths:
        return [(0, slot + 1)]
    intervals: list[tuple[int, int]] = []
    at = 0
    for index, length in enumerate(lengths):
        if length < 0:
            raise BadField(f"a run of a mask has a length of at least 0, not {length}")
        if index % 2 and length:
            if intervals and intervals[-1][1] == at:
                intervals[-1] = (intervals[-1][0], at + length)
            else:
                intervals.append((at, at + length))
        at += length
    if at > total:
        raise BadField(f"a mask of {at} slots is longer than the {total} of the context after the pass")
    if not intervals:
        raise BadField(f"the mask of the row at slot {slot} shows it nothing: let it see itself at least")
    if intervals[-1][1] > slot + 1:
        raise BadField(f"the row at slot {slot} cannot see slots after its own, up to {intervals[-1][1] - 1}")
    return intervals


def _with_slot(intervals: Intervals, slot: int) -> Intervals:
    if intervals and intervals[-1][1] == slot:
        return [*intervals[:-1], (intervals[-1][0], slot + 1)]
    return [*intervals, (slot, slot + 1)]
