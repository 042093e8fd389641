"""Bytes to messages and back, and what arbitrary bytes do."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden import GOLDEN
from pair import PORT, Pair
from pie_wire import codec
from pie_wire.codec import (
    REGISTRY,
    Header,
    check_buffers,
    decode,
    decode_body,
    decode_error,
    encode,
    encode_body,
    parse,
)
from pie_wire.errors import BadField, BadFrame, ErrorInfo, PieError, TooLarge, UnknownVerb, VersionMismatch
from pie_wire.messages.base import Done
from pie_wire.messages.gateway import AckEvents, Detach, Launch

GOOD = [[bytes.fromhex(part) for part in entry["frames"]] for entry in json.loads(GOLDEN.read_text())]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(Header.__struct_fields__ + Launch.__struct_fields__ + ("major", "minor", "identity", "error"))
packed = st.builds(msgspec.msgpack.encode, values | st.dictionaries(keys, values, max_size=6))
frames = st.one_of(
    st.lists(st.binary(max_size=40), max_size=7),
    st.tuples(st.just(b"PIE1"), st.sampled_from([*REGISTRY, b"ok", b"error", b"x"]), packed, packed).map(list),
    st.tuples(st.just(b"PIE1"), st.sampled_from(list(REGISTRY)), st.binary(max_size=20), st.binary(max_size=20)).map(
        list
    ),
)


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    """A good frame with a few bytes changed."""
    parts = [bytearray(part) for part in draw(st.sampled_from(GOOD))]
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(parts))
        if part:
            part[draw(st.integers(0, len(part) - 1))] = draw(st.integers(0, 255))
    return [bytes(part) for part in parts]


@settings(max_examples=300)
@given(frames | damaged())
def test_parsing_raises_nothing_but_typed_errors(parts: list[bytes]):
    with contextlib.suppress(PieError):
        decode(parse(parts))


@settings(max_examples=80)
@given(st.lists(frames | damaged(), min_size=1, max_size=8))
def test_a_stranger_disturbs_nobody_else(garbage: list[list[bytes]]):
    pair = Pair()
    there, here = pair.up()
    answers: list[object] = []
    pair.acceptor.hub.on(Detach, lambda incoming: Done())

    for parts in garbage:
        pair.acceptor.hub.receive(PORT, b"stranger", parts)
        pair.acceptor.hub.receive("nowhere", b"stranger", parts)
    pair.dialer.hub.request(there, Detach("p"), lambda answer: answers.append(answer.value()), timeout=1.0)
    pair.run()

    assert answers == [Done()]
    assert here.alive
    assert pair.dialer.said == ["up"]


@settings(max_examples=80)
@given(st.lists(frames | damaged(), min_size=1, max_size=8))
def test_a_peer_that_sends_garbage_breaks_at_most_its_own_link(garbage: list[list[bytes]]):
    pair = Pair()
    other = pair.dial(b"r1")
    pair.up()

    for parts in garbage:
        pair.acceptor.hub.receive(PORT, b"r0", parts)
        pair.dialer.hub.receive(PORT, b"", parts)
    pair.run(16.0)

    assert other.said == ["up"]
    assert all(what in ("up", "down") for what in pair.dialer.said)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x81\xa5trace\xa2\xff\xfe", id="invalid UTF-8"),
        pytest.param(b"\x81\xa1x" + b"\x91" * 100_000 + b"\x01", id="nested too deeply"),
        pytest.param(b"\x81\xa1x\xdd\xff\xff\xff\xff", id="a list that claims to be huge"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x90", id="no map"),
        pytest.param(b"\x81\xa2id\xa1a", id="wrong type"),
    ],
)
def test_headers_that_cannot_be_read(header: bytes):
    with pytest.raises(BadFrame):
        parse([b"PIE1", b"x", header, b"\x80"])


@pytest.mark.parametrize("body", [b"\x81\xa3pid\xa2\xff\xfe", b"\x81\xa1x" + b"\x91" * 100_000, b"\x80", b"", b"\xc0"])
def test_bodies_that_cannot_be_read(body: bytes):
    with pytest.raises(BadField, match=r"gw\.detach"):
        decode_body(Detach, body)


def test_a_bad_field_is_named():
    with pytest.raises(BadField, match=r"\$\.seqs\[0\]"):
        decode_body(AckEvents, msgspec.msgpack.encode({"pids": ["p"], "seqs": ["seven"]}))


def test_markers():
    with pytest.raises(VersionMismatch):
        parse([b"PIE2", b"x", b"\x80", b"\x80"])
    with pytest.raises(BadFrame):
        parse([b"HTTP", b"x", b"\x80", b"\x80"])
    with pytest.raises(BadFrame):
        parse([b"PIE1", b"x", b"\x80"])


def test_limits_are_the_same_on_both_sides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 100)
    monkeypatch.setattr(codec, "MAX_BUFFERS", 2)
    monkeypatch.setattr(codec, "MAX_BUFFER_BYTES", 10)

    check_buffers([b"a" * 10, memoryview(b"b" * 10)])
    assert parse(encode(b"x", Header(), b"a" * 100, [b"", b""])).body == b"a" * 100
    for buffers in ([b"", b"", b""], [b"a" * 11]):
        with pytest.raises(TooLarge):
            check_buffers(buffers)
    with pytest.raises(TooLarge):
        encode_body(Detach("p" * 100))
    for parts in (
        encode(b"x", Header(), b"a" * 101),
        encode(b"x" * 65, Header(), b""),
        encode(b"x", Header(), b"", [b""] * 3),
    ):
        with pytest.raises(BadFrame):
            parse(parts)


def test_an_unknown_verb_is_named():
    with pytest.raises(UnknownVerb, match=r"gw\.fly"):
        decode(parse(encode(b"gw.fly", Header(), b"\x80")))


def test_an_unreadable_error_is_an_error():
    assert decode_error(b"\xc1").code == "bad_field"
    assert decode_error(encode_body(ErrorInfo("gone", "m"))) == ErrorInfo("gone", "m")
