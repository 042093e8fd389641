"""Epochs, leases and the pushes that tell of them."""

from __future__ import annotations

import pytest
from kvstore_world import World
from pie_kvstore.core import LEASE_SECONDS
from pie_wire.errors import BadField, StaleEpoch, StoreUnavailable
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import Join, Leave, ListMembers


def test_epochs_grow_with_each_incarnation(world: World):
    first = world.service("engine", "engine-0").join()
    second = world.service("runner", "runner-0").join()
    again = world.service("engine", "engine-0").join()

    assert first < second < again


def test_the_same_incarnation_keeps_its_epoch(world: World):
    engine = world.service("engine", "engine-0", "one")
    epoch = engine.join()

    assert engine.join(model="x") == epoch


def test_an_incarnation_keeps_its_epoch_over_a_restart_of_kvstore(world: World):
    engine = world.service("engine", "engine-0", "one")
    epoch = engine.join()

    world.start_kvstore()
    world.step(2.0)

    assert engine.join() == epoch
    assert world.service("runner", "runner-0").join() > epoch


def test_epochs_grow_even_if_redis_forgot(world: World):
    engine = world.service("engine", "engine-0")
    world.service("runner", "runner-0").join()
    epoch = engine.join()
    world.core.store._client.flushall()

    assert world.service("runner", "runner-1").join() > epoch


def test_every_change_is_pushed_to_every_member(world: World):
    runner = world.service("runner", "runner-0")
    runner.join()
    engine = world.service("engine", "engine-0")
    engine.join(model="m")

    assert runner.seen() == engine.seen() == {"engine-0": "up", "runner-0": "up"}
    versions = [m.version for m in runner.pushed]
    assert versions == sorted(set(versions))


def test_versions_grow_over_a_restart(world: World):
    runner = world.service("runner", "runner-0")
    runner.join()
    before = runner.pushed[-1].version
    world.start_kvstore()
    world.step(2.0)
    runner.join()

    assert runner.pushed[-1].version > before


def test_stats_are_listed_without_a_push(world: World):
    runner = world.service("runner", "runner-0")
    runner.join()
    pushes = len(runner.pushed)

    runner.renew(live=3)

    listed = runner.ask(ListMembers()).value().members
    assert listed[0].stats == {"live": 3}
    assert len(runner.pushed) == pushes


def test_a_dead_process_is_removed_at_once(world: World):
    runner, engine = world.service("runner", "runner-0"), world.service("engine", "engine-0")
    runner.join()
    engine.join()

    world.kill(engine)
    world.step(0.1)

    assert runner.seen() == {"runner-0": "up"}


def test_leaving_removes_the_member(world: World):
    runner, engine = world.service("runner", "runner-0"), world.service("engine", "engine-0")
    runner.join()
    epoch = engine.join()

    engine.ask(Leave(epoch)).value()

    assert runner.seen() == {"runner-0": "up"}


def test_a_silent_member_is_stuck_then_up_again(world: World):
    runner, engine = world.service("runner", "runner-0"), world.service("engine", "engine-0")
    runner.join()
    engine.join()

    engine.stopped = True
    for _ in range(4):
        world.step(1.0)
        runner.renew()
    assert runner.seen()["engine-0"] == "stuck"

    engine.stopped = False
    world.step(1.0)
    engine.renew()
    world.step(0.1)
    assert runner.seen()["engine-0"] == "up"


def test_a_predecessor_that_lives_does_not_come_back(world: World):
    old, other = world.service("engine", "engine-0"), world.service("runner", "runner-0")
    old.join()
    other.join()
    successor = world.service("engine", "engine-0")
    epoch = successor.join()
    peer = world.peer_of(successor)

    world.step(3.0)

    assert world.peer_of(successor) is peer, "its link was never ended"
    assert world.peer_of(old) is None
    members = other.ask(ListMembers()).value().members
    assert next(m.epoch for m in members if m.name == "engine-0") == epoch


def test_a_member_that_stays_silent_loses_its_lease_and_may_come_back(world: World):
    runner, engine = world.service("runner", "runner-0"), world.service("engine", "engine-0")
    runner.join()
    epoch = engine.join()

    engine.stopped = True
    for _ in range(int(LEASE_SECONDS) + 2):
        world.step(1.0)
        runner.renew()
    assert runner.seen() == {"runner-0": "up"}
    assert {m.name: m.state for m in runner.ask(ListMembers()).value().members}["engine-0"] == "lost"

    engine.stopped = False
    world.step(3.0)
    assert engine.join() == epoch
    assert runner.seen()["engine-0"] == "up"


def test_links_that_beat_do_not_prolong_a_lease(world: World):
    engine = world.service("engine", "engine-0")
    engine.join()

    world.step(LEASE_SECONDS + 1)

    assert world.core.members.get("engine", "engine-0") is None


def test_no_lease_is_judged_until_one_lease_after_a_restart(world: World):
    engine = world.service("engine", "engine-0")
    engine.join()
    engine.stopped = True
    world.step(LEASE_SECONDS - 1)

    world.start_kvstore()
    world.step(LEASE_SECONDS - 1)
    assert world.core.members.get("engine", "engine-0") is not None

    world.step(2.0)
    assert world.core.members.get("engine", "engine-0") is None


def test_a_restart_drops_members_whose_process_is_dead(world: World):
    engine = world.service("engine", "engine-0", "one")
    engine.join()
    engine.stopped = True
    world.dead.add("one")

    world.start_kvstore()
    world.step(0.1)

    assert world.core.members.listed() == []


def test_sleep_of_kvstore_is_not_charged_to_leases(world: World):
    engine = world.service("engine", "engine-0")
    engine.join()

    world.now += 60.0
    world.step(1.0)

    assert world.core.members.get("engine", "engine-0") is not None


def test_an_older_incarnation_is_refused(world: World):
    old = world.service("engine", "engine-0", "old")
    epoch = old.join()
    world.service("engine", "engine-0", "new").join()
    world.step(1.0)

    late = world.service("engine", "engine-0", "old")
    answer = late.ask(Join(MemberInfo("engine", "engine-0", epoch, incarnation="old")))

    assert isinstance(answer.error, StaleEpoch)


def test_a_stale_leave_is_refused(world: World):
    engine = world.service("engine", "engine-0")
    epoch = engine.join()

    assert isinstance(engine.ask(Leave(epoch - 1)).error, StaleEpoch)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "x" * 65])
def test_malformed_names_are_refused(world: World, name: str):
    service = world.service("engine", name)

    assert isinstance(
        service.ask(Join(MemberInfo("engine", name, 0, incarnation=service.hub.identity.incarnation))).error, BadField
    )


def test_one_cannot_join_as_another(world: World):
    service = world.service("engine", "engine-0")

    answer = service.ask(Join(MemberInfo("engine", "engine-1", 0, incarnation=service.hub.identity.incarnation)))

    assert isinstance(answer.error, BadField)


def test_redis_outage_keeps_members_and_refuses_new_ones(world: World):
    runner = world.service("runner", "runner-0")
    epoch = runner.join()
    engine = world.service("engine", "engine-0")
    world.step(0.5)
    world.server.connected = False

    who = engine.hub.identity
    refused = engine.ask(Join(MemberInfo("engine", "engine-0", 0, incarnation=who.incarnation)))
    assert isinstance(refused.error, StoreUnavailable)
    assert refused.error.retryable
    assert runner.join() == epoch

    world.server.connected = True
    world.step(1.5)
    assert engine.join() > epoch


def test_changes_during_an_outage_are_written_afterwards(world: World):
    runner, engine = world.service("runner", "runner-0"), world.service("engine", "engine-0")
    runner.join()
    engine.join()
    world.server.connected = False
    world.kill(engine)
    world.step(0.5)
    assert runner.seen() == {"runner-0": "up"}

    world.server.connected = True
    world.step(2.5)
    world.start_kvstore()

    assert [m.name for m in world.core.members.listed()] == ["runner-0"]
