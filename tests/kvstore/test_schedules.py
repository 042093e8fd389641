"""Any order of starts, deaths, stalls, outages and restarts: what must hold always, and what must hold in the end."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kvstore_world import Service, World
from pie_kvstore.core import LEASE_SECONDS
from pie_wire.hub import Incoming
from pie_wire.membership import Membership
from pie_wire.messages.common import MemberInfo, PageRow, PoolStats
from pie_wire.messages.kvstore import Members, PutPages

NAMES = [("engine", "engine-0"), ("engine", "engine-1"), ("runner", "runner-0"), ("gateway", "gateway")]


class Schedules(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.alive: dict[tuple[str, str], Service] = {}
        self.epochs: dict[str, int] = {}
        self.redis_is_up = True

    def observe(self) -> None:
        for (kind, name), service in self.alive.items():
            who = service.hub.identity
            if service.membership is not None and service.membership.joined:
                before = self.epochs.setdefault(who.incarnation, who.epoch)
                assert who.epoch == before, f"{kind} {name} changed its epoch"

    @rule(who=st.sampled_from(NAMES))
    def start(self, who: tuple[str, str]) -> None:
        if who in self.alive:
            self.world.kill(self.alive.pop(who))
        service = self.world.service(*who)
        membership = service.membership = Membership(service.hub)

        def on_members(incoming: Incoming[Members]) -> None:
            service.pushed.append(incoming.message)
            membership._members(incoming)

        service.hub.on(Members, on_members)
        self.alive[who] = service

    @rule(who=st.sampled_from(NAMES))
    def kill(self, who: tuple[str, str]) -> None:
        if who in self.alive:
            self.world.kill(self.alive.pop(who))

    @rule(who=st.sampled_from(NAMES), stopped=st.booleans())
    def stall(self, who: tuple[str, str], stopped: bool) -> None:
        if who in self.alive:
            self.alive[who].stopped = stopped

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, LEASE_SECONDS + 1]))
    def wait(self, seconds: float) -> None:
        self.world.step(seconds)
        self.observe()

    @rule(up=st.booleans())
    def redis(self, up: bool) -> None:
        self.world.server.connected = self.redis_is_up = up

    @precondition(lambda self: self.redis_is_up)
    @rule()
    def restart(self) -> None:
        self.world.start_kvstore()

    @rule(context=st.integers(1, 3), full=st.booleans())
    def report(self, context: int, full: bool) -> None:
        engine = self.alive.get(("engine", "engine-0"))
        if engine is None or engine.stopped or engine.membership is None or not engine.membership.joined:
            return
        rows = [PageRow(context, "runner-0", 1, "p", pages=1)]
        message = PutPages("engine-0", engine.hub.identity.epoch, rows, pool=PoolStats(10, 9, 0, 1), full=full)
        engine.hub.request("kvstore", message, lambda _: None, timeout=5.0)
        self.world.step(0.1)

    @invariant()
    def newer_incarnations_have_higher_epochs(self) -> None:
        if not hasattr(self, "world"):
            return
        issued = list(self.epochs.values())
        assert len(set(issued)) == len(issued)

    @invariant()
    def versions_only_grow(self) -> None:
        if not hasattr(self, "world"):
            return
        for service in self.world.services.values():
            versions = [push.version for push in service.pushed]
            assert versions == sorted(versions)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.server.connected = True
        for service in self.alive.values():
            service.stopped = False
        self.world.step(LEASE_SECONDS + 5)
        self.observe()
        expected = {(k, n): s.hub.identity.incarnation for (k, n), s in self.alive.items()}
        listed = {(m.kind, m.name): m.incarnation for m in self.world.core.members.listed()}
        assert listed == expected
        for service in self.alive.values():
            assert {(m.kind, m.name) for m in service.pushed[-1].members} == set(expected)
        redis, keys = self.world.core.store._client, self.world.core.store.keys
        rows = [msgspec.json.decode(row, type=MemberInfo) for row in redis.hvals(keys.members)]
        assert {(m.kind, m.name): m.incarnation for m in rows if m.state != "lost"} == expected
        living = {m.name: m.epoch for m in rows if m.kind == "engine"}
        for engine in self.world.core.pages.list():
            head = self.world.core.pages._heads()[engine.engine]
            assert head.epoch == living.get(engine.engine)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
