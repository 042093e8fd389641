"""Data of snapshots: the user's own, counted, freed with the last name."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kvstore_world import Service, World
from pie_kvstore.archives import STAGED_SECONDS
from pie_wire.errors import Conflict, NotFound, TooLarge
from pie_wire.messages.kvstore import DeleteSnapshot, GetArtifact, GetSnapshot, PutArtifact, PutSnapshot, Snapshot

LIMIT = 1000


@pytest.fixture
def world() -> World:
    return World(snapshot_bytes=LIMIT)


@pytest.fixture
def runner(world: World) -> Service:
    return world.service("runner", "runner-1")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(runner: Service, data: bytes, user: str = "local"):
    return runner.ask(PutArtifact(digest(data), len(data), 0, snapshot=True), data, user=user)


def save(runner: Service, name: str, data: bytes = b"", user: str = "local"):
    if data:
        put(runner, data, user).value()
    return runner.ask(PutSnapshot(Snapshot(name, "m", [1], data=digest(data) if data else "")), user=user)


def got(runner: Service, data: bytes, user: str = "local"):
    return runner.ask(GetArtifact(digest(data), 0, snapshot=True), user=user)


def test_a_snapshots_data_is_kept_and_goes_with_its_name(world: World, runner: Service):
    save(runner, "s", b"abc").value()
    world.start_kvstore()
    runner = world.service("runner", "runner-2")

    assert bytes(got(runner, b"abc").buffers[0]) == b"abc"
    assert runner.ask(GetSnapshot("s")).value().snapshot.data == digest(b"abc")
    runner.ask(DeleteSnapshot("s")).value()
    assert isinstance(got(runner, b"abc").error, NotFound)


def test_data_that_two_names_need_goes_with_the_second(runner: Service):
    save(runner, "one", b"abc").value()
    save(runner, "two", b"abc").value()
    save(runner, "two", b"abc").value()

    save(runner, "one", b"other").value()
    assert got(runner, b"abc").error is None
    runner.ask(GetSnapshot("two", take=True, data=digest(b"abc"))).value()
    assert isinstance(got(runner, b"abc").error, NotFound)


def test_data_belongs_to_its_user(runner: Service):
    save(runner, "s", b"abc").value()

    assert isinstance(got(runner, b"abc", user="other").error, NotFound)
    assert isinstance(runner.ask(GetArtifact(digest(b"abc"), 0)).error, NotFound)
    stolen = PutSnapshot(Snapshot("s", "m", [1], data=digest(b"abc")))
    assert isinstance(runner.ask(stolen, user="other").error, NotFound)


def test_one_that_was_replaced_is_not_taken(runner: Service):
    save(runner, "s", b"abc").value()
    save(runner, "s", b"newer").value()

    assert isinstance(runner.ask(GetSnapshot("s", take=True, data=digest(b"abc"))).error, Conflict)
    assert isinstance(runner.ask(GetSnapshot("s", take=True, data="")).error, Conflict)
    assert runner.ask(GetSnapshot("s", take=True, data=digest(b"newer"))).error is None


def test_a_user_has_room_for_so_much_and_the_error_names_the_setting(world: World, runner: Service):
    save(runner, "s", b"a" * 600).value()

    refused = put(runner, b"b" * 600).error

    assert isinstance(refused, TooLarge)
    assert "snapshot_bytes = 1000" in str(refused)
    assert put(runner, b"b" * 600, user="other").error is None
    runner.ask(DeleteSnapshot("s")).value()
    save(runner, "s", b"b" * 600).value()


def test_data_that_no_snapshot_came_to_name_counts_for_a_while(world: World, runner: Service):
    put(runner, b"a" * 600).value()
    assert isinstance(put(runner, b"b" * 600).error, TooLarge)

    world.unix += STAGED_SECONDS + 1

    assert put(runner, b"b" * 600).error is None
    assert isinstance(got(runner, b"a" * 600).error, NotFound)


NAMES = ["p", "q", "r"]
steps = st.lists(
    st.tuples(st.sampled_from(["save", "save", "take", "delete"]), st.sampled_from(NAMES), st.integers(0, 3)),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_what_is_kept_is_what_names_need(plan):
    world = World(snapshot_bytes=LIMIT)
    runner = world.service("runner", "runner-1")
    kept: dict[str, bytes] = {}
    for word, name, number in plan:
        data = b"x" * (10 * number)
        match word:
            case "save":
                save(runner, name, data).value()
                kept[name] = data
            case "take":
                answer = runner.ask(GetSnapshot(name, take=True, data=digest(data) if data else ""))
                if kept.get(name) == data:
                    del kept[name]
                else:
                    assert answer.error is not None
            case _:
                assert (runner.ask(DeleteSnapshot(name)).error is None) == (kept.pop(name, None) is not None)
        for size in (10, 20, 30):
            needed = b"x" * size in kept.values()
            assert (got(runner, b"x" * size).error is None) == needed
