"""A batch has the rows of its segments, one by one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pie_engine.passes.build import build
from pie_engine.passes.outputs import EntropyProbe, HiddenProbe, Output, PagesProbe, Sampler
from pie_engine.passes.page_moves import Moves
from pie_engine.passes.segment import Segment
from pie_wire.errors import InternalError

SCRATCH = 99


@st.composite
def segments(draw):
    page_size = draw(st.integers(1, 5))
    made = []
    for _ in range(draw(st.integers(1, 5))):
        first, count = draw(st.integers(0, 12)), draw(st.integers(1, 6))
        used = -(-(first + count) // page_size)
        pages = draw(st.lists(st.integers(0, 90), min_size=used, max_size=used + 2))
        masks = None
        if draw(st.booleans()):
            masks = [
                ((0, slot), (slot, slot + 1)) if slot % 2 else ((slot, slot + 1),)
                for slot in range(first, first + count)
            ]
        made.append(
            Segment(
                tokens=draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count)),
                positions=range(first + 3, first + 3 + count),
                first_slot=first,
                pages=pages,
                outputs=[Output(row, row + 7, Sampler()) for row in draw(st.sets(st.integers(0, count - 1)))],
                write_kv=draw(st.booleans()),
                masks=masks,
            )
        )
    return page_size, made


@given(case=segments())
def test_rows_are_those_of_the_segments(case):
    page_size, made = case
    batch = build(made, page_size=page_size, scratch_page=SCRATCH)
    row = 0
    for number, segment in enumerate(made):
        table = batch.pages[batch.page_ptr[number] : batch.page_ptr[number + 1]].tolist()
        assert table == list(segment.pages)
        assert batch.segment_rows[number] == row
        for at, token in enumerate(segment.tokens):
            slot = segment.first_slot + at
            page, offset = divmod(slot, page_size)
            written = table[page] * page_size + offset if segment.write_kv else SCRATCH * page_size
            seen = segment.masks[at] if segment.masks is not None else ((0, slot + 1),)
            assert batch.tokens[row] == token
            assert batch.positions[row] == segment.positions[at]
            assert batch.row_slots[row] == slot
            assert batch.write_slots[row] == written
            spans = batch.intervals[batch.interval_ptr[row] : batch.interval_ptr[row + 1]]
            assert [tuple(span) for span in spans.tolist()] == list(seen)
            row += 1
    assert batch.rows == batch.segment_rows[-1] == row
    assert batch.causal == all(segment.masks is None for segment in made)
    wanted = [(batch.segment_rows[i] + o.row, o.position) for i, s in enumerate(made) for o in s.outputs]
    assert [(output.row, output.position) for output in batch.outputs] == wanted
    assert batch.logit_rows.tolist() == sorted({row for row, _ in wanted})


def test_rows_are_listed_once_for_what_they_are_asked():
    asked = [
        Output(1, 2, Sampler()),
        Output(1, 2, EntropyProbe()),
        Output(0, 1, HiddenProbe()),
        Output(1, 2, PagesProbe((0,), 1)),
    ]
    batch = build([Segment([5, 6], [0, 1], 0, [0], outputs=asked)], page_size=4, scratch_page=SCRATCH)
    assert batch.logit_rows.tolist() == [1]
    assert batch.hidden_rows.tolist() == [0]


def test_moves_alone_make_a_batch():
    batch = build([], page_size=4, scratch_page=SCRATCH, moves=Moves([(1, 0)], []))
    assert batch.rows == batch.segments == 0
    assert batch.write_slots.size == batch.intervals.size == 0


def test_a_row_that_would_write_into_the_pages_of_others_is_refused():
    beyond = Segment([1], [20], 20, [1])
    with pytest.raises(InternalError):
        build([beyond, Segment([1], [0], 0, [2])], page_size=16, scratch_page=SCRATCH)
