"""Base64 in pieces is the base64 of the whole."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.base64_pieces import PIECE, Base64Text, decoded, decoded_pieces, encoded
from pie_wire.errors import BadRequest


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_parts_of_any_size_make_the_text_of_the_whole(parts: list[bytes]):
    assert encoded(*parts) == base64.b64encode(b"".join(parts))


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 4])
def test_large_parts(size: int):
    data = bytes(range(256)) * (size // 256 + 1)
    text = Base64Text()
    text.add(b"x")
    text.add(memoryview(data)[:size])

    assert text.whole() == base64.b64encode(b"x" + data[:size])
    assert decoded(base64.b64encode(data[:size]).decode(), "it") == data[:size]


@given(st.binary(max_size=40), st.sampled_from([3, 6, 30]))
def test_pieces_have_the_size_that_was_asked_for(data: bytes, size: int):
    pieces = [*decoded_pieces(base64.b64encode(data).decode(), "it", size)]

    assert b"".join(pieces) == data
    assert all(len(piece) == size for piece in pieces[:-1])
    assert pieces


@pytest.mark.parametrize("text", ["A", "A===", "QQ==QQ==", "QUJDQQ==QUJD", "QUJD\nQUJD", "QUJDé123"])
def test_what_is_no_base64_is_refused_wherever_it_is_cut(text: str):
    for size in (3, 6, PIECE):
        with pytest.raises(BadRequest, match="the thing is not base64"):
            list(decoded_pieces(text, "the thing", size))
