"""Uploads in chunks, and what is given back."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvstore_world import Service, World
from pie_kvstore.schema import ARTIFACT_SECONDS, UPLOAD_SECONDS
from pie_wire.errors import BadField, HashMismatch, NotFound, TooLarge
from pie_wire.messages.common import CHUNK_BYTES, MAX_ARTIFACT_BYTES
from pie_wire.messages.kvstore import GetArtifact, PutArtifact, StatArtifact


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(service: Service, data: bytes, step: int = 1000, start: int = 0) -> None:
    for offset in range(start, len(data), step):
        service.ask(PutArtifact(digest(data), len(data), offset), data[offset : offset + step]).value()


@pytest.fixture
def gateway(world: World) -> Service:
    return world.service("gateway", "gateway")


def test_what_was_put_is_got(gateway: Service):
    data = bytes(range(256)) * 2500

    upload(gateway, data, 100_000)

    answer = gateway.ask(GetArtifact(digest(data), 0))
    second = gateway.ask(GetArtifact(digest(data), CHUNK_BYTES))
    assert answer.value().size == len(data)
    assert bytes(answer.buffers[0]) + bytes(second.buffers[0]) == data[: 2 * CHUNK_BYTES]


def test_an_interrupted_upload_goes_on_after_a_restart(world: World, gateway: Service):
    data = b"x" * 5000
    upload(gateway, data[:3000] + data[3000:], 3000, start=3000 * 2)
    gateway.ask(PutArtifact(digest(data), len(data), 0), data[:3000]).value()

    world.start_kvstore()
    world.step(2.0)

    assert gateway.ask(StatArtifact(digest(data))).value().stored == 3000
    assert gateway.ask(PutArtifact(digest(data), len(data), 3000), data[3000:]).value().complete


def test_repeats_and_overlaps_are_harmless(gateway: Service):
    data = bytes(range(200))
    for start, end in ((0, 100), (0, 100), (50, 150), (0, 10), (100, 200), (0, 100)):
        state = gateway.ask(PutArtifact(digest(data), 200, start), data[start:end]).value()

    assert state.complete
    assert bytes(gateway.ask(GetArtifact(digest(data), 0)).buffers[0]) == data


def test_a_chunk_beyond_the_end_is_not_taken(gateway: Service):
    data = b"abcdef"
    gateway.ask(PutArtifact(digest(data), 6, 0), b"ab").value()

    state = gateway.ask(PutArtifact(digest(data), 6, 4), b"ef").value()

    assert (state.stored, state.complete) == (2, False)


def test_wrong_bytes_are_refused_and_can_be_sent_again(gateway: Service):
    data = b"right bytes"
    wrong = gateway.ask(PutArtifact(digest(data), len(data), 0), b"wrong bytes")
    assert isinstance(wrong.error, HashMismatch)

    assert gateway.ask(StatArtifact(digest(data))).value().stored == 0
    upload(gateway, data)
    assert gateway.ask(StatArtifact(digest(data))).value().complete


@pytest.mark.parametrize(
    ("sha256", "size", "offset", "chunk", "error"),
    [
        ("zz", 4, 0, b"abcd", BadField),
        ("a" * 64, 0, 0, b"", TooLarge),
        ("a" * 64, MAX_ARTIFACT_BYTES + 1, 0, b"x", TooLarge),
        ("a" * 64, 4, -1, b"x", BadField),
        ("a" * 64, 4, 2, b"xyz", BadField),
        ("a" * 64, 1 << 25, 0, b"x" * (5 << 20), TooLarge),
    ],
)
def test_bad_uploads_are_refused(
    gateway: Service, sha256: str, size: int, offset: int, chunk: bytes, error: type[Exception]
):
    assert isinstance(gateway.ask(PutArtifact(sha256, size, offset), chunk).error, error)


def test_a_chunk_needs_its_buffer(gateway: Service):
    assert isinstance(gateway.ask(PutArtifact("a" * 64, 4, 0)).error, BadField)


def test_unknown_artifacts_and_offsets(gateway: Service):
    assert isinstance(gateway.ask(GetArtifact("a" * 64, 0)).error, NotFound)
    upload(gateway, b"abc")
    assert isinstance(gateway.ask(GetArtifact(digest(b"abc"), 4)).error, BadField)
    assert gateway.ask(GetArtifact(digest(b"abc"), 3)).buffers[0] == b""


def test_uploads_and_unnamed_artifacts_expire(world: World, gateway: Service):
    upload(gateway, b"abc")
    gateway.ask(PutArtifact(digest(b"xyz"), 3, 0), b"x").value()

    redis, keys = world.core.store._client, world.core.store.keys
    assert 0 < redis.ttl(keys.upload(digest(b"xyz"))) <= UPLOAD_SECONDS
    assert 0 < redis.ttl(keys.artifact(digest(b"abc"))) <= ARTIFACT_SECONDS


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=12), st.integers(1, 120))
def test_any_order_of_chunks_ends_complete_or_says_where_to_go_on(data: bytes, offsets: list[int], length: int):
    import fakeredis
    from pie_kvstore.artifacts import Artifacts
    from pie_kvstore.store import Store

    artifacts = Artifacts(Store(fakeredis.FakeRedis(), lambda: 0.0))
    stored = 0
    for offset in offsets:
        start = min(offset, len(data))
        stored, _ = artifacts.put(digest(data), len(data), start, data[start : start + length])
    while stored < len(data):
        stored, _ = artifacts.put(digest(data), len(data), stored, data[stored : stored + length])

    assert artifacts.get(digest(data), 0) == (len(data), data)
