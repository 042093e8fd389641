"""A kvstore core on a fake Redis, with services that speak to it over hubs, frames and a clock made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import fakeredis
from pie_kvstore.core import PORT, SNAPSHOT_BYTES, KvstoreCore
from pie_wire.errors import PeerLost
from pie_wire.hub import Answer, Hub, Peer, Scope
from pie_wire.membership import Membership
from pie_wire.messages.base import Message, Request
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import Join, Members, Renew
from pie_wire.messages.link import Identity

R = TypeVar("R", bound=Message)


@dataclass(eq=False)
class Service:
    """One process that dials kvstore."""

    world: World
    hub: Hub
    pushed: list[Members] = field(default_factory=list)
    stopped: bool = False
    membership: Membership | None = None
    """Joins and renews by itself, if there is one."""

    def tick(self) -> None:
        self.hub.tick()
        if self.membership is not None:
            self.membership.tick()

    def ask(self, request: Request[R], *buffers: bytes, tenant: str = "local", user: str = "local") -> Answer[R]:
        """Send a request and run the world until it is answered."""
        answers: list[Answer[R]] = []
        self.hub.request(PORT, request, answers.append, timeout=5.0, buffers=buffers, scope=Scope(tenant, user))
        for _ in range(200):
            self.world.step(0.05)
            if answers:
                return answers[0]
        raise AssertionError("no answer")

    def join(self, **facts: Any) -> int:
        who = self.hub.identity
        member = MemberInfo(
            who.kind, who.name, who.epoch, pid=who.pid, incarnation=who.incarnation, host=who.host, info=facts
        )
        epoch = self.ask(Join(member)).value().epoch
        self.hub.identity = Identity(who.kind, who.name, epoch, who.incarnation, who.pid, who.host)
        return epoch

    def renew(self, **stats: Any) -> None:
        peer = self.hub.peer(PORT)
        assert peer is not None
        self.hub.send(peer, Renew(self.hub.identity.epoch, stats))
        self.world.step(0.0)

    def seen(self) -> dict[str, str]:
        """Name to state, as the last push said."""
        return {m.name: m.state for m in self.pushed[-1].members}


class World:
    """Time, one Redis server, one kvstore, and the services around it."""

    def __init__(self, snapshot_bytes: int = SNAPSHOT_BYTES) -> None:
        self.snapshot_bytes = snapshot_bytes
        self.now = 1000.0
        self.unix = 1_700_000_000.0
        self.server = fakeredis.FakeServer()
        self.dead: set[str] = set()
        self.services: dict[bytes, Service] = {}
        self.start_kvstore()

    def start_kvstore(self) -> None:
        """Start kvstore, or start it again with nothing but its Redis."""
        self.hub = Hub(Identity("kvstore", "kvstore", incarnation="k", pid=1), lambda: self.now)
        self.core = KvstoreCore(
            self.hub,
            fakeredis.FakeRedis(server=self.server),
            snapshot_bytes=self.snapshot_bytes,
            now=lambda: self.unix,
            is_dead=lambda who: who.incarnation in self.dead,
        )

    def service(self, kind: str, name: str, incarnation: str = "") -> Service:
        incarnation = incarnation or f"{name}-{len(self.services)}"
        hub = Hub(Identity(kind, name, 0, incarnation, 100 + len(self.services), "host"), lambda: self.now)
        service = Service(self, hub)
        hub.on(Members, lambda m: service.pushed.append(m.message))
        hub.dial(PORT)
        self.services[f"r{len(self.services)}".encode()] = service
        return service

    def kill(self, service: Service) -> None:
        """The process ends without a word, and the transport of kvstore sees it."""
        service.stopped = True
        self.dead.add(service.hub.identity.incarnation)
        peer = self.peer_of(service)
        if peer is not None:
            self.hub.lost(peer, PeerLost("died"))

    def peer_of(self, service: Service) -> Peer | None:
        mine = service.hub.identity.incarnation
        return next((p for p in self.hub.peers() if p.identity.incarnation == mine), None)

    def step(self, seconds: float) -> None:
        """Let time pass in turns of 50 ms, delivering what is sent."""
        end = self.now + seconds
        while True:
            self._deliver()
            if self.now >= end:
                return
            self.now = min(end, self.now + 0.05)
            self.unix += 0.05

    def _deliver(self) -> None:
        self.hub.tick()
        self.core.tick()
        for service in self.services.values():
            if not service.stopped:
                service.tick()
        for _ in range(6):
            for item in self.hub.outgoing():
                target = self.services.get(item.route)
                if target is not None and not target.stopped:
                    target.hub.receive(PORT, b"", _bytes(item.frames))
            for route, service in self.services.items():
                for item in service.hub.outgoing():
                    if not service.stopped:
                        self.hub.receive(PORT, route, _bytes(item.frames))


def _bytes(frames: Sequence[bytes | memoryview]) -> list[bytes]:
    return [bytes(f) for f in frames]
