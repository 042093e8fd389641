"""Messages between programs of different runners, and `kill -9` of whoever has them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from uuid import uuid4

import pytest
from e2e_stack import Stack, eventually
from pie_wire.errors import PieError
from pie_zmq import Client

WORKER = b"""
import asyncio
from inferlet import messaging, session

async def main(topic: str, count: int = 1, seconds: float = 0.0, fail: bool = False):
    done = []
    for _ in range(count):
        message = await messaging.pull(topic)
        session.send({"text": message.text, "redeliveries": message.redeliveries})
        await asyncio.sleep(seconds)
        if fail:
            raise ValueError(message.text)
        done.append(message.text)
    return done
"""
BOSS = b"""
from inferlet import messaging

async def main(topic: str, messages: list):
    for message in messages:
        await messaging.push(topic, message)
"""
LISTENER = b"""
from inferlet import messaging, session

async def main(topic: str, count: int):
    with messaging.subscribe(topic) as news:
        session.send("listening")
        heard = []
        async for text in news:
            heard.append(text)
            if len(heard) == count:
                return heard, news.lost
"""
SPEAKER = b"""
from inferlet import messaging

async def main(topic: str, messages: list):
    for message in messages:
        await messaging.broadcast(topic, message)
"""


@pytest.fixture
def client(scripted: Stack) -> Iterator[Client]:
    with scripted.client() as made:
        yield made


@pytest.fixture
def topic() -> str:
    return f"jobs-{uuid4().hex[:8]}"


def run(client: Client, source: bytes, **given: object):
    return client.launch(f"sha256:{client.upload(source)}", given)


def counts(client: Client, topic: str) -> tuple[int, int, int]:
    return next(((t.waiting, t.taken, t.dead) for t in client.topics() if t.name == topic), (0, 0, 0))


def has_one(process) -> None:
    next(event for event in process.events() if event.kind == "message")


def test_work_is_shared(client: Client, topic: str):
    workers = [run(client, WORKER, topic=topic, count=2) for _ in range(3)]
    run(client, BOSS, topic=topic, messages=[str(n) for n in range(6)]).result(30)

    done = [text for worker in workers for text in worker.result(30)]

    assert sorted(done) == [str(n) for n in range(6)]
    eventually("all is acknowledged", lambda: counts(client, topic) == (0, 0, 0))


def test_broadcasts(client: Client, topic: str):
    listeners = [run(client, LISTENER, topic=topic, count=2) for _ in range(2)]
    for listener in listeners:
        has_one(listener)
    run(client, SPEAKER, topic=topic, messages=["one", "two"]).result(30)

    assert [listener.result(30) for listener in listeners] == [[["one", "two"], 0]] * 2


@pytest.mark.slow
def test_what_everybody_fails_on_ends_aside(client: Client, topic: str):
    run(client, BOSS, topic=topic, messages=["poison"]).result(30)
    for _ in range(5):
        with pytest.raises(PieError, match="poison"):
            run(client, WORKER, topic=topic, fail=True).result(30)

    eventually("it is dead", lambda: counts(client, topic) == (0, 0, 1))
    assert [message.text for message in client.dead_messages(topic)] == ["poison"]
    assert client.purge(topic) == 1


@pytest.mark.slow
def test_the_runner_that_has_it_dies(scripted: Stack, client: Client, topic: str):
    run(client, BOSS, topic=topic, messages=["a"]).result(30)
    first = run(client, WORKER, topic=topic, seconds=600)
    has_one(first)
    runner = next(info.runner for info in client.list() if info.pid == first.pid)

    killed = scripted.kill(runner)

    second = run(client, WORKER, topic=topic)
    has_one(second)
    assert second.result(30) == ["a"]
    scripted.wait_restarted(killed)
    assert counts(client, topic) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["kvstore", "redis", "gateway"])
def test_a_service_dies_while_some_wait_and_some_work(scripted: Stack, client: Client, topic: str, victim: str):
    run(client, BOSS, topic=topic, messages=["a"]).result(30)
    working = run(client, WORKER, topic=topic, count=2, seconds=2.0)
    has_one(working)
    waiting = run(client, WORKER, topic=topic)

    if victim == "redis":
        os.kill(scripted.redis(), signal.SIGKILL)
    else:
        killed = scripted.kill(victim)
        scripted.wait_restarted(killed)
    eventually("it is back", lambda: client.topics() is not None, 30)
    run(client, BOSS, topic=topic, messages=["b", "c"]).result(60)

    done = working.result(60) + waiting.result(60)
    assert sorted(done) == ["a", "b", "c"]
    eventually("all is acknowledged", lambda: counts(client, topic) == (0, 0, 0))
