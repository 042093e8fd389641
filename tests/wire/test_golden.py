"""The published frames are what this code writes and reads; an independent MessagePack reader agrees."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from golden_cases import CASES, Case
from make_golden import GOLDEN, plain, render
from pie_wire.codec import ERROR, OK, REGISTRY, Header, decode, decode_body, encode, encode_body, parse
from pie_wire.errors import ErrorInfo
from pie_wire.messages.base import Message

PUBLISHED: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
PAIRS = [pytest.param(case, entry, id=case.name) for case, entry in zip(CASES, PUBLISHED, strict=False)]


def test_the_published_file_is_current():
    assert GOLDEN.read_text() == render(), "run python tests/wire/make_golden.py and read the difference"


def test_every_verb_is_published():
    covered = {entry["message"] for entry in PUBLISHED}
    assert covered == {verb.decode() for verb in REGISTRY} | {"error"}
    assert {"ok", "error"} <= {entry["verb"] for entry in PUBLISHED}
    assert len({entry["name"] for entry in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize(("case", "entry"), PAIRS)
def test_encoding_gives_the_published_bytes(case: Case, entry: dict[str, Any]):
    frames = encode(case.verb, case.header, encode_body(case.message), case.buffers)

    assert [bytes(frame).hex() for frame in frames] == entry["frames"]


@pytest.mark.parametrize(("case", "entry"), PAIRS)
def test_decoding_the_published_bytes_gives_the_case(case: Case, entry: dict[str, Any]):
    frame = parse([bytes.fromhex(part) for part in entry["frames"]])

    assert (frame.verb, frame.header, tuple(frame.buffers)) == (case.verb, case.header, case.buffers)
    message = decode_body(type(case.message), frame.body) if case.verb in (OK, ERROR) else decode(frame)
    assert message == case.message


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["name"])
def test_an_independent_reader_finds_the_same_values(entry: dict[str, Any]):
    marker, verb, header, body, *buffers = (bytes.fromhex(part) for part in entry["frames"])

    assert marker == b"PIE1"
    assert verb.decode() == entry["verb"]
    assert plain(msgpack.unpackb(header)) == entry["header"]
    assert plain(msgpack.unpackb(body)) == entry["body"]
    assert [buffer.hex() for buffer in buffers] == entry["buffers"]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry["name"])
def test_unknown_keys_of_a_newer_peer_are_ignored(entry: dict[str, Any]):
    marker, verb, header, body, *buffers = (bytes.fromhex(part) for part in entry["frames"])
    newer = {"zz-future": [1, {"a": None}]}

    frame = parse(
        [
            marker,
            verb,
            msgpack.packb(msgpack.unpackb(header) | newer),
            msgpack.packb(msgpack.unpackb(body) | newer),
            *buffers,
        ]
    )

    cls: type[Message | ErrorInfo] = ErrorInfo if verb == ERROR else REGISTRY[entry["message"].encode()]
    assert frame.header == parse([bytes.fromhex(part) for part in entry["frames"]]).header
    assert decode_body(cls, frame.body) == decode_body(cls, body)


def test_defaults_are_left_out_of_the_header():
    assert encode(b"v", Header(), b"\x80")[2] == b"\x80"
