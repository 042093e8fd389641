"""The messaging half of kvstore for a simulated world: its real core, on a Redis that can go away."""

from __future__ import annotations

import itertools
from typing import Any

import fakeredis
from pie_kvstore.queues import Queues, Topic
from pie_kvstore.store import Store as RedisStore
from pie_kvstore.topics import Topics
from pie_wire.messages.common import MemberInfo
from runner_world import World

JOBS = Topic("local", "local", "jobs")


class Store:
    """The messaging half of kvstore on the stand-in's hub."""

    def __init__(self, world: World) -> None:
        self.server = fakeredis.FakeServer()
        self.world = world
        client: Any = fakeredis.FakeRedis(server=self.server)
        store = RedisStore(client, lambda: world.wires.now)
        self.queues = Queues(store, messages=100, size=1 << 20, topics=100)
        self.start()

    def start(self) -> None:
        hub = self.world.kvstore.hub
        self.topics = Topics(hub, self.queues, lambda peer: MemberInfo("runner", peer.name, 1), lambda: 1.0)
        hub.on_down(lambda peer, _: self.topics.link_down(peer))
        self._keys = itertools.count()

    def push(self, *texts: str) -> None:
        for text in texts:
            self.queues.push(JOBS, text, f"test/{next(self._keys)}", 0.0)
        self.topics._meet(JOBS)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Waiting, taken, dead."""
        found = [i for i in self.queues.list("local", "local") if i.name == "jobs"]
        return (found[0].waiting, found[0].taken, found[0].dead) if found else (0, 0, 0)
