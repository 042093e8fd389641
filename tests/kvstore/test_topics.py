"""Messaging at kvstore: pulls that wait, redelivery when runners die, broadcasts, over links and outages."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from kvstore_world import Service, World
from pie_kvstore import topics
from pie_kvstore.core import LEASE_SECONDS
from pie_wire.errors import BadField, Overloaded, QuotaExceeded, StoreUnavailable, TooLarge, Unavailable
from pie_wire.messages.common import MAX_QUEUED_BYTES
from pie_wire.messages.kvstore import (
    Broadcast,
    ListDead,
    ListTopics,
    PullMessage,
    PurgeTopic,
    PushMessage,
    SettleMessages,
    Subscribe,
    TopicInfo,
    Unsubscribe,
)
from pie_wire.messages.runner import Broadcasted, QueuedMessage

P1, P2 = "1" * 32, "2" * 32


class Runner:
    """A runner that has joined, and what it was sent."""

    def __init__(self, world: World, name: str, incarnation: str = "") -> None:
        self.service: Service = world.service("runner", name, incarnation)
        self.given: list[QueuedMessage] = []
        self.heard: list[Broadcasted] = []
        self.service.hub.on(QueuedMessage, lambda m: self.given.append(m.message))
        self.service.hub.on(Broadcasted, lambda m: self.heard.append(m.message))
        self.service.join()
        self._keys = 0

    def push(self, *texts: str, topic: str = "jobs", **owner: str) -> None:
        for text in texts:
            self._keys += 1
            self.service.ask(
                PushMessage(topic, text, f"{self.service.hub.identity.incarnation}/{self._keys}"), **owner
            ).value()

    def pull(self, number: int, pid: str = P1, topic: str = "jobs", acknowledged: tuple[int, ...] = (), **owner: str):
        return self.service.ask(PullMessage(topic, pid, number, list(acknowledged)), **owner)

    @property
    def texts(self) -> list[tuple[str, int]]:
        return [(given.text, given.redeliveries) for given in self.given]


@pytest.fixture
def runner(world: World) -> Runner:
    return Runner(world, "runner-0")


@pytest.fixture
def other(world: World) -> Runner:
    return Runner(world, "runner-1")


def info(runner: Runner, **owner: str) -> list[TopicInfo]:
    return runner.service.ask(ListTopics(), **owner).value().topics


class TestQueues:
    def test_a_message_goes_to_one_who_waits_on_another_runner(self, runner: Runner, other: Runner):
        other.pull(1, P2)
        runner.push("a", "b")

        assert other.texts == [("a", 0)]
        assert other.given[0].pid == P2
        assert info(runner) == [TopicInfo("jobs", 1, 1, 0, 2)]

    def test_the_next_pull_acknowledges(self, runner: Runner):
        runner.push("a", "b")
        runner.pull(1)
        runner.pull(2, acknowledged=(runner.given[0].message,))

        assert runner.texts == [("a", 0), ("b", 0)]
        assert info(runner) == [TopicInfo("jobs", 0, 1, 0, 1)]

    def test_nobody_acknowledges_for_others(self, runner: Runner):
        runner.push("a")
        runner.pull(1)
        runner.pull(1, P2, acknowledged=(runner.given[0].message,))
        runner.service.ask(SettleMessages(P2, [runner.given[0].message], all=True)).value()

        assert info(runner)[0].taken == 1

    def test_users_do_not_meet(self, runner: Runner):
        runner.push("a", tenant="acme", user="ada")
        runner.pull(1, tenant="acme", user="bob")
        runner.pull(2, tenant="other", user="ada")

        assert runner.given == []
        assert info(runner) == []
        assert len(info(runner, tenant="acme", user="ada")) == 1

    def test_what_was_failed_comes_again_five_times_and_is_then_dead(self, runner: Runner):
        runner.push("poison", "good")
        for number in range(1, 6):
            runner.pull(number)
            runner.service.ask(SettleMessages(P1, failed=[runner.given[-1].message], all=True)).value()
        runner.pull(9)

        assert runner.texts == [("poison", n) for n in range(5)] + [("good", 0)]
        dead = runner.service.ask(ListDead("jobs")).value().messages
        assert [message.text for message in dead] == ["poison"]
        assert runner.service.ask(PurgeTopic("jobs")).value().messages == 1
        assert info(runner) == [TopicInfo("jobs", 0, 1, 0, 4)]

    def test_what_was_not_seen_does_not_count(self, runner: Runner):
        runner.push("a")
        for number in range(1, 9):
            runner.pull(number)
            runner.service.ask(SettleMessages(P1, number=number)).value()

        assert runner.texts == [("a", 0)] * 8

    def test_a_dropped_pull_waits_no_longer(self, world: World, runner: Runner, other: Runner):
        runner.pull(1)
        other.pull(1, P2)
        runner.service.ask(SettleMessages(P1, number=1)).value()
        runner.push("a")

        assert runner.given == []
        assert other.texts == [("a", 0)]
        assert world.core.topics.shares.taken == 0

    def test_a_push_repeated_is_stored_once(self, runner: Runner):
        for _ in range(3):
            runner.service.ask(PushMessage("jobs", "a", "key")).value()

        assert info(runner)[0].waiting == 1

    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (PushMessage("", "a", "k"), BadField),
            (PushMessage("a\nb", "a", "k"), BadField),
            (PushMessage("x" * 201, "a", "k"), BadField),
            (PushMessage("jobs", "a", ""), BadField),
            (PushMessage("jobs", "a" * (MAX_QUEUED_BYTES + 1), "k"), TooLarge),
            (PushMessage("jobs", "\u4e16" * (MAX_QUEUED_BYTES // 2), "k"), TooLarge),
            (PullMessage("jobs", "../x", 1), BadField),
            (SettleMessages("../x"), BadField),
            (Broadcast("jobs", "a" * (MAX_QUEUED_BYTES + 1)), TooLarge),
            (ListDead(""), BadField),
        ],
    )
    def test_bad_input(self, runner: Runner, request_: Any, error: type[Exception]):
        assert isinstance(runner.service.ask(request_).error, error)

    def test_a_full_queue(self, world: World, runner: Runner):
        world.core.topics.queues._messages = 2
        runner.push("a", "b")

        assert isinstance(runner.service.ask(PushMessage("jobs", "c", "k")).error, QuotaExceeded)

    def test_one_without_a_lease_pulls_nothing(self, world: World):
        service = world.service("runner", "stranger")

        assert isinstance(service.ask(PullMessage("jobs", P1, 1)).error, Unavailable)

    def test_one_tenants_pulls_leave_room_for_others(self, world: World, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(topics, "MAX_WAITERS", 8)
        world.start_kvstore()
        runner = Runner(world, "runner-0")
        errors = [runner.pull(n).error for n in range(1, 9)]

        assert [type(error) for error in errors] == [type(None)] * 4 + [Overloaded] * 4
        assert "tenant local" in str(errors[-1])
        assert runner.pull(1, P2, tenant="acme").error is None, "the others have a share of their own"
        assert runner.pull(1).error is None, "one that waits already is known"

        runner.service.ask(SettleMessages(P1, all=True)).value()
        assert runner.pull(9).error is None, "those that wait no more give their room back"

    def test_the_pulls_of_a_dead_runner_give_their_room_back(self, world: World, runner: Runner, other: Runner):
        shares = world.core.topics.shares
        for number in (1, 2, 3):
            runner.pull(number)
        other.pull(1, P2)
        assert shares.taken == 4
        world.kill(runner.service)
        world.step(0.5)
        assert shares.taken == 1

        other.push("a")
        assert shares.taken == 0

    def test_a_slow_runner_gets_messages_later(self, world: World, runner: Runner, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(topics, "SLOW_BYTES", -1)
        runner.push("a")
        runner.pull(1)
        assert runner.given == []

        monkeypatch.setattr(topics, "SLOW_BYTES", 1 << 20)
        world.step(0.3)
        assert runner.texts == [("a", 0)]


class TestDeaths:
    def test_what_a_dead_runner_had_goes_to_others(self, world: World, runner: Runner, other: Runner):
        runner.push("a", "b")
        runner.pull(1)
        other.pull(1, P2)
        world.kill(runner.service)
        world.step(0.5)
        other.pull(2, P2)

        assert other.texts == [("b", 0), ("a", 1)]

    def test_a_lost_lease_is_a_death(self, world: World, runner: Runner, other: Runner):
        runner.push("a")
        runner.pull(1)
        runner.service.stopped = True
        other.pull(1, P2)
        for _ in range(int(LEASE_SECONDS) + 2):
            world.step(1.0)
            other.service.renew()

        assert other.texts == [("a", 1)]

    def test_a_new_incarnation_does_not_own_what_the_old_one_had(self, world: World, runner: Runner):
        runner.push("a")
        runner.pull(1)
        successor = Runner(world, "runner-0", "next")
        successor.pull(1, P2)
        world.step(0.5)

        assert successor.texts == [("a", 1)]

    def test_a_restart_of_kvstore_keeps_who_has_what(self, world: World, runner: Runner):
        runner.push("a", "b")
        runner.pull(1)
        world.start_kvstore()
        world.step(12.0)
        runner.service.join()

        runner.pull(1)
        runner.pull(2, acknowledged=(runner.given[0].message,))
        assert runner.texts == [("a", 0), ("a", 0), ("b", 0)]

    def test_a_push_that_was_stored_though_it_failed_meets_who_waits(
        self, world: World, runner: Runner, other: Runner, monkeypatch: pytest.MonkeyPatch
    ):
        other.pull(1, P2)
        push = world.core.topics.queues.push

        def stored_without_an_answer(*arguments: Any) -> bool:
            push(*arguments)
            raise world.core.store._trip(redis.ConnectionError("reset by peer"))

        monkeypatch.setattr(world.core.topics.queues, "push", stored_without_an_answer)
        assert isinstance(runner.service.ask(PushMessage("jobs", "a", "k")).error, StoreUnavailable)
        monkeypatch.undo()
        world.step(2.0)

        runner.service.ask(PushMessage("jobs", "a", "k")).value()
        assert other.texts == [("a", 0)]

    def test_an_outage_of_redis_delays_and_loses_nothing(self, world: World, runner: Runner, other: Runner):
        runner.push("a", "b")
        runner.pull(1)
        world.server.connected = False
        assert isinstance(runner.service.ask(PushMessage("jobs", "c", "k")).error, StoreUnavailable)
        assert isinstance(other.pull(1, P2).error, StoreUnavailable)
        world.kill(runner.service)
        world.step(2.0)

        world.server.connected = True
        world.step(3.0)
        for number in (1, 2):
            other.pull(number, P2)

        assert other.texts == [("a", 1), ("b", 0)]


class TestBroadcasts:
    def test_all_who_are_subscribed_hear_it(self, runner: Runner, other: Runner):
        for each in (runner, other):
            each.service.ask(Subscribe("news")).value()
            each.service.ask(Subscribe("news")).value()
        runner.service.ask(Broadcast("news", "hello")).value()
        runner.service.ask(Broadcast("other", "nobody")).value()
        runner.service.ask(Broadcast("news", "theirs"), user="bob").value()

        for each in (runner, other):
            assert [(m.topic, m.text, m.user) for m in each.heard] == [("news", "hello", "local")]

    def test_one_tenants_subscriptions_leave_room_for_others(self, world: World, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(topics, "MAX_SUBSCRIBED", 8)
        world.start_kvstore()
        runner = Runner(world, "runner-0")
        errors = [runner.service.ask(Subscribe(f"t{n}")).error for n in range(8)]

        assert [type(error) for error in errors] == [type(None)] * 4 + [Overloaded] * 4
        assert "tenant local" in str(errors[-1])
        assert runner.service.ask(Subscribe("t1"), tenant="acme").error is None
        assert runner.service.ask(Subscribe("t1")).error is None, "one that there is already is known"
        peer = runner.service.hub.peer("kvstore")
        assert peer is not None
        runner.service.hub.send(peer, Unsubscribe("t1"))
        world.step(0.1)
        assert runner.service.ask(Subscribe("t1")).error is None, "what is dropped gives its room back"
        shares = world.core.topics.subscribed
        assert shares.taken == 5
        world.kill(runner.service)
        world.step(0.5)
        assert shares.taken == 0

    def test_not_any_more(self, world: World, runner: Runner):
        runner.service.ask(Subscribe("news")).value()
        peer = runner.service.hub.peer("kvstore")
        assert peer is not None
        runner.service.hub.send(peer, Unsubscribe("news"))
        runner.service.ask(Broadcast("news", "hello")).value()

        assert runner.heard == []
        assert world.core.topics._subscribed == {}

    def test_a_lost_link_ends_it(self, world: World, runner: Runner, other: Runner):
        runner.service.ask(Subscribe("news")).value()
        world.kill(runner.service)
        other.service.ask(Broadcast("news", "hello")).value()

        assert world.core.topics._subscribed == {}

    def test_a_slow_runner_misses_some_and_is_told_how_many(
        self, world: World, runner: Runner, other: Runner, monkeypatch: pytest.MonkeyPatch
    ):
        runner.service.ask(Subscribe("news")).value()
        monkeypatch.setattr(topics, "SLOW_BYTES", -1)
        for _ in range(3):
            other.service.ask(Broadcast("news", "missed")).value()
        monkeypatch.setattr(topics, "SLOW_BYTES", 1 << 20)
        other.service.ask(Broadcast("news", "heard")).value()

        assert [(m.text, m.lost) for m in runner.heard] == [("heard", 3)]
