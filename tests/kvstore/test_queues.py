"""Queues against an oracle that keeps everything in lists: at least once, in order, five times, nothing lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from pie_kvstore.connection import connect
from pie_kvstore.embedded import EmbeddedRedis, find_server
from pie_kvstore.queues import MAX_DELIVERIES, Queues, Topic
from pie_kvstore.store import Store
from pie_wire.errors import QuotaExceeded, StoreUnavailable, Unavailable

TOPICS = [Topic("local", "ada", "jobs"), Topic("local", "ada", "a:b/c%"), Topic("local", "bob", "jobs")]
RUNNERS = [("runner-0", 3), ("runner-0", 7), ("runner-1", 4)]
PROCESSES = {f"{n}" * 32: RUNNERS[n % 3] for n in range(4)}


def queues_on(client: Any, **limits: int) -> Queues:
    given = {"messages": 100, "size": 10_000, "topics": 10} | limits
    return Queues(Store(client, lambda: 0.0), **given)


class Machine(RuleBasedStateMachine):
    """`clients` gives a client of an empty Redis."""

    clients: Callable[[], Any]

    @initialize()
    def begin(self) -> None:
        self.client = self.clients()
        self.queues = queues_on(self.client)
        self.waiting: dict[Topic, dict[int, int]] = {topic: {} for topic in TOPICS}
        """Number -> deliveries so far, per topic; numbers are texts too."""
        self.taken: dict[int, tuple[Topic, str, int, int]] = {}
        """Number -> topic, process, pull, deliveries."""
        self.dead: dict[Topic, set[int]] = {topic: set() for topic in TOPICS}
        self.numbers: dict[str, int] = {}
        self.first: dict[Topic, list[int]] = {topic: [] for topic in TOPICS}
        self.pulls = 0
        self.pushed = 0

    @rule(topic=st.sampled_from(TOPICS), again=st.booleans())
    def push(self, topic: Topic, again: bool) -> None:
        self.pushed += 1
        text = f"m{self.pushed}"

        assert self.queues.push(topic, text, text, 1.0)
        if again:
            assert not self.queues.push(topic, text, text, 2.0)
        self.waiting[topic][self.pushed] = 0

    @rule(topic=st.sampled_from(TOPICS), pid=st.sampled_from(sorted(PROCESSES)), again=st.booleans())
    def take(self, topic: Topic, pid: str, again: bool) -> None:
        self.pulls += 1
        given = self.queues.take(topic, *PROCESSES[pid], pid, self.pulls)

        if not self.waiting[topic]:
            assert given is None
            return
        number = min(self.waiting[topic])
        before = self.waiting[topic].pop(number)
        assert given is not None
        assert (given.text, given.redeliveries) == (f"m{number}", before)
        self.numbers[given.text] = given.message
        self.taken[number] = (topic, pid, self.pulls, before + 1)
        if before == 0 and number not in self.first[topic]:
            assert not self.first[topic] or self.first[topic][-1] < number, "first deliveries in order"
            self.first[topic].append(number)
        if again:
            assert self.queues.take(topic, *PROCESSES[pid], pid, self.pulls) == given

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.taken:
            number = data.draw(st.sampled_from(sorted(self.taken)))
            self.queues.acknowledge([self.numbers[f"m{number}"]])
            del self.taken[number]

    @rule(data=st.data(), seen=st.booleans())
    def give_back(self, data: st.DataObject, seen: bool) -> None:
        if self.taken:
            number = data.draw(st.sampled_from(sorted(self.taken)))
            self.back([number], self.queues.give_back([self.numbers[f"m{number}"]], seen=seen), seen=seen)

    @rule(runner=st.sampled_from(RUNNERS))
    def runner_dies(self, runner: tuple[str, int]) -> None:
        held = self.queues.held_by_others_than([r for r in RUNNERS if r != runner])
        mine = [number for number, (_, pid, _, _) in self.taken.items() if PROCESSES[pid] == runner]

        assert set(held) == {self.numbers[f"m{number}"] for number in mine}
        self.back(mine, self.queues.give_back(list(held), seen=True), seen=True)

    @rule()
    def kvstore_restarts(self) -> None:
        self.queues = queues_on(self.client)

    @rule(topic=st.sampled_from(TOPICS), waiting=st.booleans())
    def purge(self, topic: Topic, waiting: bool) -> None:
        wanted = len(self.dead[topic]) + (len(self.waiting[topic]) if waiting else 0)

        assert self.queues.purge(topic, waiting=waiting) == wanted
        self.dead[topic].clear()
        if waiting:
            self.waiting[topic].clear()

    def back(self, numbers: list[int], again: list[Topic], *, seen: bool) -> None:
        wanted: set[Topic] = set()
        for number in numbers:
            topic, _, _, deliveries = self.taken.pop(number)
            if seen and deliveries >= MAX_DELIVERIES:
                self.dead[topic].add(number)
            else:
                self.waiting[topic][number] = deliveries if seen else deliveries - 1
                wanted.add(topic)
        assert set(again) == wanted

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "queues"):
            return
        for tenant, user in {(topic.tenant, topic.user) for topic in TOPICS}:
            listed = {info.name: info for info in self.queues.list(tenant, user)}
            for topic in (t for t in TOPICS if (t.tenant, t.user) == (tenant, user)):
                taken = [n for n, row in self.taken.items() if row[0] == topic]
                everything = [*self.waiting[topic], *taken, *self.dead[topic]]
                info = listed.pop(topic.name, None)
                if not everything:
                    assert info is None
                    continue
                assert info is not None
                counts = (info.waiting, info.taken, info.dead)
                assert counts == (len(self.waiting[topic]), len(taken), len(self.dead[topic]))
                assert info.size == sum(len(f"m{number}") for number in everything)
                texts = [message.text for message in self.queues.dead(topic)]
                assert texts == [f"m{number}" for number in sorted(self.dead[topic])]
            assert listed == {}
        assert all(deliveries <= MAX_DELIVERIES for *_, deliveries in self.taken.values())


def run(clients: Callable[[], Any], examples: int) -> None:
    machine = type("Queueing", (Machine,), {"clients": staticmethod(clients)})
    quick = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=quick)


def test_any_order_of_everything():
    run(lambda: fakeredis.FakeRedis(server=fakeredis.FakeServer()), 25)


def test_any_order_of_everything_on_the_real_server(real_redis: Callable[[], Any]):
    run(real_redis, 6)


@pytest.fixture
def real_redis(require_tool: Callable[[str], str]) -> Iterator[Callable[[], Any]]:
    """Empties the embedded server and gives a client of it."""
    try:
        find_server()
    except Unavailable:
        require_tool("redis-server")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kv-", dir="/tmp")))
        server = EmbeddedRedis(folder / "data", folder / "r.sock")
        server.start()
        stack.callback(server.stop)
        client: Any = connect(server.url)
        stack.callback(client.close)

        def emptied() -> Any:
            client.flushall()
            return client

        yield emptied


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.mark.parametrize(
    ("limits", "name"),
    [({"messages": 2}, "topic_messages"), ({"size": 7}, "topic_bytes"), ({"topics": 1}, "user_topics")],
)
def test_quotas(server: fakeredis.FakeServer, limits: dict[str, int], name: str):
    queues = queues_on(fakeredis.FakeRedis(server=server), **limits)
    jobs, other, bobs = TOPICS
    queues.push(jobs, "abc", "1", 0.0)

    full = other if name == "user_topics" else jobs
    if name != "user_topics":
        queues.push(jobs, "abc", "2", 0.0)
    with pytest.raises(QuotaExceeded, match=name):
        queues.push(full, "abc", "3", 0.0)
    queues.push(bobs, "abc", "9", 0.0)

    if name == "user_topics":
        given = queues.take(jobs, "r", 1, "p", 1)
        assert given is not None
        queues.acknowledge([given.message])
        queues.push(other, "abc", "10", 0.0)
    else:
        assert queues.purge(jobs, waiting=True) > 0
        queues.push(jobs, "abc", "10", 0.0)


def test_an_outage_in_the_middle_of_a_change(server: fakeredis.FakeServer):
    clock = [0.0]
    queues = Queues(Store(fakeredis.FakeRedis(server=server), lambda: clock[0]), messages=9, size=999, topics=9)
    queues.push(TOPICS[0], "abc", "1", 0.0)
    given = queues.take(TOPICS[0], "runner-0", 3, "p", 1)
    assert given is not None

    server.connected = False
    with pytest.raises(StoreUnavailable):
        queues.acknowledge([given.message])
    server.connected = True
    clock[0] = 5.0

    assert list(queues.held_by("p")) == [given.message]
    queues.acknowledge([given.message])
    assert queues.list("local", "ada") == []
