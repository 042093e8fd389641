"""Uploads, manifests, installs, lists and reports."""

from __future__ import annotations

import hashlib

import pytest
from gateway_world import FakeClient, World
from pie_gateway import manifest
from pie_wire.errors import BadField, HashMismatch, NotFound, Overloaded, PieError, StoreUnavailable, TooLarge
from pie_wire.messages.common import CHUNK_BYTES, MAX_ARTIFACT_BYTES
from pie_wire.messages.gateway import Install, Launch, ListInstalled, Pages, Status, Upload

MANIFEST = '[package]\nname = "my-prog"\nversion = "1.2.3-rc.1+b5"\n'


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> FakeClient:
    return world.client()


def upload(client: FakeClient, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    for offset in range(0, len(data), CHUNK_BYTES):
        client.ask(Upload(digest, len(data), offset), data[offset : offset + CHUNK_BYTES])
    return digest


def test_an_upload_in_chunks_is_complete_when_the_last_one_is_answered(world: World, client: FakeClient):
    data = bytes(range(256)) * 3000
    digest = hashlib.sha256(data).hexdigest()
    half = len(data) // 2

    first = client.ask(Upload(digest, len(data), 0), data[:CHUNK_BYTES])
    assert (first.received, first.complete) == (CHUNK_BYTES, False)
    world.restart_gateway()
    world.run(1.0)
    resumed = client.ask(Upload(digest, len(data), 0))
    assert resumed.received == CHUNK_BYTES
    assert half > CHUNK_BYTES
    upload(client, data)

    assert client.ask(Upload(digest, len(data), 0)).complete
    assert world.kvstore.artifacts[digest] == data


def test_a_wrong_digest_is_told(client: FakeClient):
    with pytest.raises(HashMismatch):
        client.ask(Upload("0" * 64, 3, 0), b"abc")


@pytest.mark.parametrize(
    ("message", "chunk", "error"),
    [
        (Upload("xyz", 3, 0), b"abc", BadField),
        (Upload("0" * 64, 0, 0), b"", BadField),
        (Upload("0" * 64, 3, 1), b"abc", BadField),
        (Upload("0" * 64, 3, -1), b"a", BadField),
        (Upload("0" * 64, MAX_ARTIFACT_BYTES + 1, 0), b"a", TooLarge),
        (Upload("0" * 64, MAX_ARTIFACT_BYTES, 0), b"a" * (CHUNK_BYTES + 1), TooLarge),
    ],
)
def test_impossible_chunks_are_refused(client: FakeClient, message: Upload, chunk: bytes, error: type[PieError]):
    with pytest.raises(error):
        client.ask(message, chunk)


def test_uploads_at_once_are_bounded_and_abandoned_ones_make_room():
    world = World(uploads=2)
    client = world.client()
    for name in ("a", "b"):
        client.ask(Upload(name * 64, 10, 0), b"x")
    with pytest.raises(Overloaded):
        client.ask(Upload("c" * 64, 10, 0), b"x")

    client.ask(Upload("a" * 64, 10, 1), b"y")
    world.run(world.config.upload_idle + 1)

    client.ask(Upload("c" * 64, 10, 0), b"x")


def test_an_uploaded_program_is_launched_by_its_digest(world: World, client: FakeClient):
    runner = world.runner()
    digest = upload(client, b"print(1)")

    pid = client.launch(f"sha256:{digest}", filename="one.py", kind="python")

    start = runner.processes[pid].start
    assert (start.program.sha256, start.program.name, start.program.version) == (digest, "one.py", "")
    assert start.filename == "one.py"


def test_install_registers_name_and_version_of_the_manifest(world: World, client: FakeClient):
    world.runner()
    digest = upload(client, b"print(1)")

    installed = client.ask(Install(digest, "python", MANIFEST)).program

    assert (installed.ref.name, installed.ref.version) == ("my-prog", "1.2.3-rc.1+b5")
    client.launch("my-prog")
    client.launch("my-prog@1.2.3-rc.1+b5")
    assert [p.ref.name for p in client.ask(ListInstalled()).programs] == ["hello", "my-prog"]


def test_install_is_seen_at_once_under_an_unversioned_name(world: World, client: FakeClient):
    runner = world.runner()
    client.launch("hello")
    world.kvstore.programs.clear()
    digest = upload(client, b"print(2)")
    client.ask(Install(digest, "python", '[package]\nname = "hello"\nversion = "0.2.0"'))

    pid = client.launch("hello")

    assert runner.processes[pid].start.program.version == "0.2.0"


def test_install_without_its_upload_is_not_found(client: FakeClient):
    with pytest.raises(NotFound):
        client.ask(Install("0" * 64, "python", MANIFEST))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml [",
        "name = 'x'\nversion = '1.0.0'",
        "package = 3",
        "[package]\nversion = '1.0.0'",
        "[package]\nname = 'Upper'\nversion = '1.0.0'",
        "[package]\nname = '-x'\nversion = '1.0.0'",
        "[package]\nname = 'x'\nversion = '1.0'",
        "[package]\nname = 'x'\nversion = '01.0.0'",
        "[package]\nname = 'x'\nversion = 1",
    ],
)
def test_bad_manifests_are_refused(text: str):
    with pytest.raises(BadField, match=r"Pie\.toml"):
        manifest.parse(text)


def test_an_oversized_manifest_is_refused():
    with pytest.raises(TooLarge):
        manifest.parse("#" * (manifest.MAX_MANIFEST_BYTES + 1))


def test_status_names_services_and_models_also_without_kvstore(world: World, client: FakeClient):
    world.runner()
    client.launch()
    report = client.ask(Status())
    assert [m.name for m in report.models] == ["tiny"]
    assert report.models[0].max_context == 2048
    assert report.processes == 1

    world.kill("kvstore")
    world.run(1.0)

    assert [m.kind for m in client.ask(Status()).members] == ["engine"]
    with pytest.raises(StoreUnavailable):
        client.ask(Pages())


def test_pages_come_from_kvstore(client: FakeClient):
    assert client.ask(Pages()).engines == []


def test_names_that_are_asked_often_are_asked_once(world: World, client: FakeClient):
    world.runner("runner-0", 100)
    for _ in range(10):
        client.ask(Launch(world.pid(), "hello"))

    assert world.kvstore.asked.count("kv.get-program") == 1
