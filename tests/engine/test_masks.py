"""Masks of requests as intervals, checked against dense rows of bits."""

from __future__ import annotations

import itertools
import tracemalloc

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pie_engine.passes.masks import MAX_INTERVALS, covers, rows_of, tree_rows, without
from pie_wire.errors import BadField, TooLarge
from pie_wire.messages.engine import Mask


def bits(intervals, slot):
    """Visible slots of a row."""
    if intervals is None:
        return set(range(slot + 1))
    ends = [end for pair in intervals for end in pair]
    assert all(a < b for a, b in itertools.pairwise(ends)), "sorted, disjoint, not adjacent"
    return {s for low, high in intervals for s in range(low, high)}


def run_lengths(visible):
    """Alternating run lengths of a list of booleans, hidden first."""
    runs, state = [0], False
    for bit in visible:
        if bit != state:
            runs.append(0)
            state = bit
        runs[-1] += 1
    return runs


@given(first=st.integers(0, 12), data=st.data())
def test_runs_mean_their_bits(first, data):
    count = data.draw(st.integers(1, 6))
    rows = [
        [*data.draw(st.lists(st.booleans(), min_size=first + i, max_size=first + i)), True] + [False] * (count - i - 1)
        for i in range(count)
    ]
    found = rows_of(Mask("runs", runs=[run_lengths(row) for row in rows]), first, count)
    for i, row in enumerate(rows):
        assert bits(found[i], first + i) == {slot for slot, bit in enumerate(row) if bit}


@given(first=st.integers(0, 20), count=st.integers(1, 8), window=st.integers(1, 9), sink=st.integers(0, 5))
def test_window_and_sink(first, count, window, sink):
    found = rows_of(Mask("window", window, sink), first, count)
    for slot, row in enumerate(found, first):
        assert bits(row, slot) == {s for s in range(slot + 1) if s < sink or s > slot - window}


@given(first=st.integers(0, 9), data=st.data())
def test_tree_rows_see_their_chain(first, data):
    parents = [data.draw(st.integers(-1, row - 1)) for row in range(data.draw(st.integers(1, 9)))]
    found = rows_of(Mask("tree", parents=parents), first, len(parents))
    for row in range(len(parents)):
        seen, at = set(range(first)), row
        while at >= 0:
            seen.add(first + at)
            at = parents[at]
        assert bits(found[row], first + row) == seen


def test_a_causal_row_is_none_however_it_is_said():
    assert rows_of(Mask(), 3, 2) == [None, None]
    assert rows_of(Mask("runs", runs=[[], [0, 2, 0, 3]]), 3, 2) == [None, None]
    assert rows_of(Mask("window", 9), 3, 2) == [None, None]
    assert rows_of(Mask("tree", parents=[-1, 0]), 3, 2) == [None, None]


@pytest.mark.parametrize(
    "mask",
    [
        Mask("runs", runs=[[0, 4]]),
        Mask("runs", runs=[[0, 4], [0, 4], []]),
        Mask("runs", runs=[[0, 6], []]),
        Mask("runs", runs=[[0, 5], [0, 5]]),
        Mask("runs", runs=[[4, 0], []]),
        Mask("runs", runs=[[0, -1, 3], []]),
        Mask("runs", runs=[[0, 4, 3], []]),
        Mask("window", 0),
        Mask("window", 2, -1),
        Mask("tree", parents=[-1]),
        Mask("tree", parents=[0, -1]),
        Mask("tree", parents=[-2, -1]),
    ],
)
def test_what_does_not_fit_is_refused(mask):
    with pytest.raises(BadField):
        rows_of(mask, 3, 2)


def test_intervals_are_bounded():
    rows = 400
    every_other = [[0] + [1] * (slot + 1 - (slot % 2)) for slot in range(rows)]
    with pytest.raises(TooLarge, match=str(MAX_INTERVALS)):
        rows_of(Mask("runs", runs=every_other * 2), rows, rows * 2)


def test_a_tree_is_refused_before_all_of_it_is_made():
    """Every row of this one has a stretch more than the row two before it: 4 million of them would follow."""
    parents = [max(-1, row - 2) for row in range(4_000)]
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match=str(MAX_INTERVALS)):
            tree_rows(parents, 0, len(parents))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def stretches(slots):
    """The slots as intervals, disjoint and apart."""
    found = []
    for slot in sorted(slots):
        if found and found[-1][1] == slot:
            found[-1] = (found[-1][0], slot + 1)
        else:
            found.append((slot, slot + 1))
    return found


@given(st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)))
def test_without_removes_slots(slots, hidden):
    left = without(stretches(slots), stretches(hidden))
    assert left == stretches(slots - hidden)
    assert covers(stretches(hidden), stretches(slots)) == (slots <= hidden)
