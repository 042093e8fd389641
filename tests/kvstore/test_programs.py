"""The registry: versions, sameness, replacement."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvstore_world import Service, World
from pie_kvstore.names import Version
from pie_wire.errors import BadField, Conflict, NotFound, TooLarge
from pie_wire.messages.common import Program, ProgramRef
from pie_wire.messages.kvstore import GetProgram, InstallProgram, ListPrograms, PutArtifact


@pytest.fixture
def gateway(world: World) -> Service:
    return world.service("gateway", "gateway")


def install(
    service: Service, name: str, version: str, source: bytes = b"1", *, manifest: str = "", replace: bool = False
) -> Program:
    sha256 = hashlib.sha256(source).hexdigest()
    service.ask(PutArtifact(sha256, len(source), 0), source).value()
    ref = ProgramRef(name, version, "python", sha256)
    return service.ask(InstallProgram(ref, manifest, replace)).value().program


def test_the_highest_version_answers_a_bare_name(gateway: Service):
    for version in ("0.2.0", "0.10.0", "0.9.9", "0.10.0-rc.1"):
        install(gateway, "demo", version, version.encode())

    assert gateway.ask(GetProgram("demo")).value().program.ref.version == "0.10.0"
    assert gateway.ask(GetProgram("demo", "0.2.0")).value().program.ref.version == "0.2.0"


def test_a_pre_release_answers_if_it_is_the_highest(gateway: Service):
    install(gateway, "demo", "1.0.0")
    install(gateway, "demo", "1.1.0-beta.2")

    assert gateway.ask(GetProgram("demo")).value().program.ref.version == "1.1.0-beta.2"


def test_the_same_bytes_again_change_nothing(world: World, gateway: Service):
    first = install(gateway, "demo", "1.0.0")
    world.step(10.0)

    assert install(gateway, "demo", "1.0.0") == first


def test_other_bytes_conflict_unless_replaced(gateway: Service):
    install(gateway, "demo", "1.0.0", b"one")

    with pytest.raises(Conflict):
        install(gateway, "demo", "1.0.0", b"two")
    replaced = install(gateway, "demo", "1.0.0", b"two", replace=True)

    assert gateway.ask(GetProgram("demo")).value().program == replaced


def test_named_artifacts_stay_and_replaced_ones_expire(world: World, gateway: Service):
    one, two = (hashlib.sha256(b).hexdigest() for b in (b"one", b"two"))
    redis, keys = world.core.store._client, world.core.store.keys
    install(gateway, "demo", "1.0.0", b"one")
    install(gateway, "other", "1.0.0", b"one")
    assert redis.ttl(keys.artifact(one)) == -1

    install(gateway, "demo", "1.0.0", b"two", replace=True)
    assert redis.ttl(keys.artifact(one)) == -1
    install(gateway, "other", "1.0.0", b"two", replace=True)

    assert redis.ttl(keys.artifact(one)) > 0
    assert redis.ttl(keys.artifact(two)) == -1


def test_an_artifact_must_be_there(gateway: Service):
    ref = ProgramRef("demo", "1.0.0", "python", "a" * 64)

    assert isinstance(gateway.ask(InstallProgram(ref, "")).error, NotFound)


@pytest.mark.parametrize(
    ("name", "version", "error"),
    [("Demo", "1.0.0", BadField), ("a/b", "1.0.0", BadField), ("demo", "1.0", BadField), ("demo", "01.0.0", BadField)],
)
def test_malformed_names_and_versions(gateway: Service, name: str, version: str, error: type[Exception]):
    with pytest.raises(error):
        install(gateway, name, version)


def test_a_manifest_is_bounded(gateway: Service):
    with pytest.raises(TooLarge):
        install(gateway, "demo", "1.0.0", manifest="x" * 70_000)


def test_what_is_missing_is_named(gateway: Service):
    install(gateway, "demo", "1.0.0")

    assert "1.0.0" in str(gateway.ask(GetProgram("demo", "2.0.0")).error)
    assert isinstance(gateway.ask(GetProgram("nothing")).error, NotFound)


def test_the_list_is_by_name_and_version_and_survives(world: World, gateway: Service):
    for name, version in (("b", "1.0.0"), ("a", "0.10.0"), ("a", "0.9.0")):
        install(gateway, name, version)
    world.start_kvstore()
    world.step(2.0)

    listed = gateway.ask(ListPrograms()).value().programs
    assert [(p.ref.name, p.ref.version) for p in listed] == [("a", "0.9.0"), ("a", "0.10.0"), ("b", "1.0.0")]


def test_versions_are_ordered_as_semver_says():
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0", "1.0.1"]

    shuffled = sorted(ordered, key=str.swapcase)

    assert sorted(shuffled, key=Version) == ordered


number = st.integers(0, 10**6)
word = st.from_regex(r"[0-9A-Za-z-]{1,8}", fullmatch=True).filter(
    lambda w: not (w.isdecimal() and len(w) > 1 and w[0] == "0")
)


@given(number, number, number, st.lists(word, max_size=3), number, number, number, st.lists(word, max_size=3))
def test_any_two_versions_compare_one_way(
    a: int, b: int, c: int, pre: list[str], d: int, e: int, f: int, post: list[str]
):
    left = Version(f"{a}.{b}.{c}" + ("-" + ".".join(pre) if pre else ""))
    right = Version(f"{d}.{e}.{f}" + ("-" + ".".join(post) if post else ""))

    assert (left < right) + (right < left) + (left == right) == 1


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_words(text: str):
    with contextlib.suppress(BadField):
        assert Version(text).text == text
