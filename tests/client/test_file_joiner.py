"""Files out of their parts, whatever else is in the stream."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pie_wire.file_names import PART_BYTES
from pie_wire.messages.common import Event
from pie_zmq.file_joiner import FileJoiner


def part(seq: int, name: str, size: int, offset: int, data: bytes) -> Event:
    return Event(seq, "file", json.dumps({"name": name, "size": size, "offset": offset}), data)


def parts_of(name: str, data: bytes, step: int) -> list[tuple[str, int, int, bytes]]:
    return [(name, len(data), at, data[at : at + step]) for at in range(0, len(data) or 1, step)]


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=3), st.binary(max_size=40)), max_size=6),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_whole_files_come_out_whole(files: list[tuple[str, bytes]], step: int, between: int):
    joiner, seq, got = FileJoiner(), 0, []
    for name, data in files:
        for piece in parts_of(name, data, step):
            seq += 1
            got.append(joiner.take(part(seq, *piece)))
            for _ in range(between):
                seq += 1
                assert joiner.take(Event(seq, "stderr", "x")) is not None

    whole = [event for event in got if event is not None]
    assert [(event.text, event.data) for event in whole] == files
    assert all(event.kind == "file" for event in whole)
    assert joiner.begun_at == 0


@given(st.binary(min_size=2, max_size=40), st.data())
def test_a_lost_part_is_a_gap_and_never_a_wrong_file(data: bytes, draw: st.DataObject):
    pieces = parts_of("a", data, 1)
    lost = draw.draw(st.integers(0, len(pieces) - 1))
    joiner = FileJoiner()
    got = [joiner.take(part(n + 1, *piece)) for n, piece in enumerate(pieces) if n != lost]
    got.append(joiner.take(part(99, "b", 1, 0, b"!")))

    found = [event for event in got if event is not None]
    assert [event.kind for event in found] == (["file"] if lost == len(pieces) - 1 else ["gap", "file"])
    assert found[-1].data == b"!"


def test_nonsense_is_a_gap():
    joiner = FileJoiner()
    for bad in (Event(1, "file", "no json", b"x"), part(2, "a", 1, 0, b"too long"), part(3, "a", 5, 3, b"xx")):
        taken = joiner.take(bad)
        assert taken is not None
        assert taken.kind == "gap"


def test_a_part_is_a_whole_number_of_base64_groups():
    assert PART_BYTES % 3 == 0
