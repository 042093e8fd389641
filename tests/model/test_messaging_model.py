"""Random faults against messages between programs: at least once, five times at most, and nothing lost."""

from __future__ import annotations

import json
import os
import random

import pytest
from network import Faults
from pie_kvstore.queues import MAX_DELIVERIES, Topic
from programs import DELIVERED
from test_wire_model import disturb
from world import World

SCHEDULES = int(os.environ.get("PIE_MODEL_SCHEDULES", "150")) // 10
JOBS = Topic("local", "local", "jobs")


def exchange(world: World, rng: random.Random, serial: int) -> None:
    """A producer, and as many consumers as there are messages for."""
    messages = [f"{serial}.{number}" for number in range(rng.randrange(1, 8))]
    rng.choice(world.clients).launch("produce", {"messages": messages})
    left = len(messages)
    while left > 0:
        count = rng.randrange(1, left + 1)
        rng.choice(world.clients).launch("consume", {"count": count, "fails": rng.random() < 0.3})
        left -= count


def texts(world: World, what: str) -> set[str]:
    """Messages of the topic that are `waiting` or `dead`."""
    client, keys = world.kvstore.store._client, world.kvstore.store.keys
    numbers = client.zrange({"waiting": keys.waiting(JOBS), "dead": keys.dead(JOBS)}[what], 0, -1)
    rows = [json.loads(client.hget(keys.queue(JOBS), number)) for number in numbers]
    return {row["text"] for row in rows}


def check_messages(world: World) -> None:
    """Whatever was said to be stored was delivered, or is still there; nothing belongs to a process that has ended."""
    stored = {text for held in world.held() if held.program == "produce" for text in held.messages}
    seen = {text for text, _ in DELIVERED}
    told = {json.loads(text)[0] for held in world.held() if held.program == "consume" for text in held.messages}
    assert told <= seen
    assert stored <= seen | texts(world, "waiting") | texts(world, "dead"), "lost"
    assert all(redeliveries < MAX_DELIVERIES for _, redeliveries in DELIVERED)
    (info, *_) = [*world.kvstore.topics.queues.list("local", "local"), None]
    assert info is None or info.taken == 0, world.kvstore.topics.queues._taken
    assert world.kvstore.topics._waiting == {}
    for runner in world.runners.values():
        assert runner.post._mail == {}
        assert runner.post._settling.taken == 0


def end_consumers(world: World) -> None:
    """Those that wait for a message that was lost with its producer would wait for ever."""
    for client in world.clients:
        for held in client.held.values():
            if held.program == "consume" and not held.ended and held.launched:
                client.terminate(held)


@pytest.fixture(autouse=True)
def _nothing_delivered() -> None:
    DELIVERED.clear()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SCHEDULES, 5 * SCHEDULES))
def test_messages_through_many_more(seed: int):
    messages_through_deaths_stalls_and_cuts(seed)


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_messages_through_deaths_stalls_and_cuts(seed: int):
    messages_through_deaths_stalls_and_cuts(seed)


def messages_through_deaths_stalls_and_cuts(seed: int) -> None:
    rng = random.Random(30_000 + seed)
    world = World(seed, Faults(drop=rng.choice([0.0, 0.02]), duplicate=0.02, jitter=rng.choice([0.0, 0.05])))
    exchange(world, rng, 0)
    for serial in range(1, rng.randrange(2, 5)):
        world.network.run(rng.uniform(0.1, 2.0))
        disturb(world, rng)
        exchange(world, rng, serial)

    for _ in range(30):
        if world.network.run(10.0, world.idle):
            break
        end_consumers(world)
    assert world.idle()
    assert world.network.run(20.0, lambda: world.network.is_whole)
    world.network.faults = Faults()
    world.network.run(8.0)
    world.check()
    check_messages(world)


def test_messages_on_a_quiet_network():
    world = World(1, Faults())
    world.clients[0].launch("produce", {"messages": ["a", "b", "c"]})
    consumer = world.clients[1].launch("consume", {"count": 3, "fails": False})

    assert world.network.run(20.0, world.idle)
    world.network.run(1.0)
    assert consumer.messages == ['["a", 0]', '["b", 0]', '["c", 0]']
    check_messages(world)
    assert world.kvstore.topics.queues.list("local", "local") == []
