"""Texts are as large as what is sent of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pie_wire.texts import byte_size


@given(st.text() | st.binary())
def test_the_size_is_that_of_utf8(value: str | bytes):
    assert byte_size(value) == len(value if isinstance(value, bytes) else value.encode())
