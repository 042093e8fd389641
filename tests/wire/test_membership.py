"""Joining kvstore, keeping the lease, mirroring the member list."""

from __future__ import annotations

import msgspec
from pair import Clock, End, Pair
from pie_wire.errors import PeerLost, PieError, StaleEpoch, StoreUnavailable
from pie_wire.hub import Incoming
from pie_wire.membership import KVSTORE, Membership
from pie_wire.messages.base import Done
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import Join, Joined, Leave, Members, Renew


class Registry:
    """A kvstore that gives every incarnation the next epoch, and the service that joins it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = End(self.clock, "kvstore", seed=1)
        self.store.hub.listen(KVSTORE)
        self.joins: list[MemberInfo] = []
        self.renewals: list[Renew] = []
        self.left: list[int] = []
        self.refuse: PieError | None = None
        self.store.hub.on(Join, self._join)
        self.store.hub.on(Renew, lambda incoming: self.renewals.append(incoming.message))
        self.store.hub.on(Leave, self._leave)
        self.service = End(self.clock, "runner", name="one")
        self.membership = Membership(self.service.hub, endpoint="ipc:///x", info={"backend": "test"})
        self.service.hub.dial(KVSTORE)

    def _join(self, incoming: Incoming[Join]) -> Joined:
        if self.refuse is not None:
            raise self.refuse
        self.joins.append(incoming.message.member)
        return Joined(len(self.joins) + 4, 15_000)

    def _leave(self, incoming: Incoming[Leave]) -> Done:
        self.left.append(incoming.message.epoch)
        return Done()

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.now += 0.05
            self.membership.tick()
            for end in (self.store, self.service):
                end.hub.tick()
            while True:
                out = [(self.store, b"r", item.frames) for item in self.service.hub.outgoing()]
                out += [(self.service, b"", item.frames) for item in self.store.hub.outgoing()]
                if not out:
                    break
                for end, route, frames in out:
                    end.hub.receive(KVSTORE, route, frames)


def test_join_gives_the_epoch():
    registry = Registry()
    registry.run(0.5)

    assert registry.membership.joined
    assert registry.service.hub.identity.epoch == 5
    (member,) = registry.joins
    assert (member.kind, member.name, member.endpoint, member.info) == (
        "runner",
        "one",
        "ipc:///x",
        {"backend": "test"},
    )


def test_the_lease_is_renewed_with_the_load_each_second():
    registry = Registry()
    registry.membership.report(lambda: {"live": 3})
    registry.run(5.0)

    assert 4 <= len(registry.renewals) <= 6
    assert registry.renewals[-1] == Renew(5, {"live": 3})


def test_a_refused_join_is_tried_again():
    registry = Registry()
    registry.refuse = StoreUnavailable("Redis is away")
    registry.run(1.5)
    assert not registry.membership.joined
    assert isinstance(registry.membership.error, StoreUnavailable)

    registry.refuse = None
    registry.run(1.5)
    assert registry.membership.joined
    assert registry.membership.error is None


def test_a_member_whose_name_was_taken_over_knows_it():
    registry = Registry()
    registry.run(0.5)
    assert not registry.membership.is_superseded

    registry.refuse = StaleEpoch("a newer one has the name")
    (peer,) = registry.store.hub.peers()
    registry.store.hub.lost(peer, PeerLost("replaced"))
    registry.run(3.0)

    assert registry.membership.is_superseded


def test_a_new_link_means_joining_again_with_the_epoch_one_has():
    registry = Registry()
    registry.run(0.5)
    (peer,) = registry.store.hub.peers()
    registry.store.hub.lost(peer, PeerLost("said the test"))
    registry.run(1.5)

    assert [member.epoch for member in registry.joins] == [0, 5]
    assert registry.membership.joined


def test_changed_facts_are_told():
    registry = Registry()
    registry.run(0.5)
    registry.membership.update(model="smollm2")
    registry.run(0.5)

    assert registry.joins[-1].info == {"backend": "test", "model": "smollm2"}
    assert registry.membership.joined


def test_the_highest_version_of_the_list_counts_and_outlives_the_link():
    registry = Registry()
    registry.run(0.5)
    heard: list[int] = []
    registry.membership.on_change(lambda members: heard.append(len(members)))
    (peer,) = registry.store.hub.peers()
    engine = MemberInfo("engine", "e", 9)
    lost = msgspec.structs.replace(engine, name="f", state="lost")

    registry.store.hub.send(peer, Members(7, [engine, lost]))
    registry.store.hub.send(peer, Members(6, []))
    registry.run(0.1)
    registry.service.hub.hang_up(KVSTORE, PeerLost("away"))

    assert heard == [2]
    assert registry.membership.members == [engine, lost]
    assert registry.membership.of_kind("engine") == [engine]
    assert not registry.membership.joined


class Replacement:
    """A runner and its successor under the same name, both with a link to a gateway that hears the member list."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.old = self.pair.dial(b"r1", "runner", name="r", epoch=0)
        self.new = self.pair.dial(b"r2", "runner", name="r", epoch=0)
        self.store = self.pair.dial(b"r3", "kvstore")
        Membership(self.pair.acceptor.hub)
        self.pair.run()
        (self.peer,) = self.store.hub.peers()

    def list(self, version: int, end: End, epoch: int) -> None:
        row = MemberInfo("runner", "r", epoch, incarnation=end.hub.identity.incarnation)
        self.store.hub.send(self.peer, Members(version, [row]))
        self.pair.run()

    def linked(self) -> set[str]:
        return {p.identity.incarnation for p in self.pair.acceptor.hub.peers() if p.kind == "runner"}


def test_a_newer_incarnation_in_the_list_ends_the_links_of_the_older_one():
    runners = Replacement()
    old, new = (end.hub.identity.incarnation for end in (runners.old, runners.new))

    runners.list(1, runners.old, 5)
    assert runners.linked() == {old, new}, "one that is not listed yet may be on its way to join"
    del runners.pair.dialers[b"r1"]
    runners.list(2, runners.new, 6)
    assert runners.linked() == {new}
    assert isinstance(runners.pair.acceptor.cause, PeerLost)


def test_an_outdated_list_ends_nothing():
    runners = Replacement()
    runners.list(1, runners.new, 6)
    runners.list(2, runners.old, 5)
    assert len(runners.linked()) == 2


def test_leaving_gives_the_lease_back():
    registry = Registry()
    registry.run(0.5)
    registry.membership.leave()
    registry.run(0.1)

    assert registry.left == [5]
