"""A subscription that nobody reads: bounded, its losses counted, and no harm to those who speak or who listen."""

from __future__ import annotations

import json

import pytest
from attacks import Attack
from message_store import Store
from pie_runner.messaging.subscription import MAX_BYTES, MAX_MESSAGES
from pie_wire.messages.runner import Deliver

COUNT = 600

DEAF = b"""
from inferlet import messaging, session

async def main():
    with messaging.subscribe("news") as news:
        session.send("listening")
        await session.receive()
        lost, heard = news.lost, 0
        async for text in news:
            heard += 1
            if text[0] == "y":
                return "it was kept"
            if heard + lost == 600:
                return [heard, lost]
"""
LISTENER = b"""
from inferlet import messaging, session

async def main():
    with messaging.subscribe("news") as news:
        session.send("listening")
        heard = 0
        async for text in news:
            heard += 1
            if text[0] == "y":
                return [heard, news.lost]
"""
SPEAKER = b"""
from inferlet import messaging

async def main(size, count):
    for i in range(count - 1):
        await messaging.broadcast("news", "x" * size)
    await messaging.broadcast("news", "y" * size)
"""


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("end", ["asks", "killed"])
def test_it_loses_and_is_told_and_others_are_served(attack: Attack, store: Store, size: int, end: str):
    world = attack.world
    deaf = [attack.launch(DEAF, kind="python") for _ in range(2)]
    listener = attack.launch(LISTENER, kind="python")
    world.run(lambda: all(attack.said(pid, "listening") for pid in (*deaf, listener)))
    unread = [s for told in world.runner.post._listening.values() for s in told]

    speaker = attack.launch(SPEAKER, json.dumps({"size": size, "count": COUNT}), "python")
    world.run(lambda: world.ended(speaker) and world.ended(listener))

    assert attack.end(speaker) == "return"
    assert json.loads(world.log(listener)[-1].text) == [COUNT, 0]
    kept = min(MAX_MESSAGES, MAX_BYTES // size)
    assert sorted(s.lost for s in unread) == [0, COUNT - kept, COUNT - kept]
    assert all(len(s._messages) <= MAX_MESSAGES and s._size <= MAX_BYTES for s in unread)
    for pid in deaf:
        if end == "killed":
            attack.kill(pid)
            continue
        world.deliver(Deliver(pid, text="now"))
        world.run(lambda pid=pid: world.ended(pid))
        assert json.loads(world.log(pid)[-1].text) == [kept, COUNT - kept]
    world.run(0.2)
    assert store.topics._subscribed == {}
    assert world.runner.post._listening == {}
