"""Two hubs over a network that drops, delays, repeats and reorders: each message arrives once and in order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pie_wire.codec import Buffer
from pie_wire.errors import PeerLost, PieError
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages.base import Done
from pie_wire.messages.gateway import AckEvents, Detach
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import Kill

TICK = 0.05
ROUTE = b"r"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Weather:
    """What the network does to a frame: probabilities, and the longest delay in ticks."""

    drop: float = 0.0
    repeat: float = 0.0
    delay: int = 0
    reorder: bool = False


CALM = Weather()


@dataclass
class Side:
    """One process: a hub, and what it has seen. Sessions are told apart by their number, which both sides share."""

    hub: Hub
    got: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    served: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    ups: list[int] = field(default_factory=list[int])
    downs: list[int] = field(default_factory=list[int])


class Network:
    """A dialer and an acceptor. The acceptor can be restarted: a new hub that remembers nothing."""

    def __init__(self, seed: int) -> None:
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.weather = CALM
        self.flying: list[tuple[float, int, str, list[Buffer]]] = []
        self.count = 0
        self.sent: dict[int, list[int]] = {}
        self.asked: dict[int, list[Answer[Done]]] = {}
        self.asked_in: dict[int, int] = {}
        self.number = 0
        self.dialer = self._side("client", "d")
        self.dialer.hub.dial("x")
        self.acceptor = self._side("gateway", "a0")
        self.acceptor.hub.listen("x")
        self.past: list[Side] = []

    def _side(self, kind: str, incarnation: str) -> Side:
        hub = Hub(Identity(kind, kind, 0, incarnation), self.clock, rng=random.Random(self.rng.random()))
        side = Side(hub)
        hub.on_up(lambda peer: side.ups.append(peer.session))
        hub.on_down(lambda peer, cause: side.downs.append(peer.session))
        hub.on(
            AckEvents, lambda incoming: side.got.setdefault(incoming.peer.session, []).append(incoming.message.seqs[0])
        )

        def serve(incoming: Incoming[Detach]) -> Done:
            side.served.setdefault(incoming.peer.session, []).append(int(incoming.message.pid))
            return Done()

        hub.on(Detach, serve)
        return side

    def restart_acceptor(self) -> None:
        self.past.append(self.acceptor)
        self.acceptor = self._side("gateway", f"a{len(self.past)}")
        self.acceptor.hub.listen("x")

    def push(self, side: Side) -> None:
        for peer in side.hub.peers():
            self.number += 1
            if side.hub.send(peer, AckEvents(["p"], [self.number])):
                key = peer.session * 2 + (side is self.dialer)
                self.sent.setdefault(key, []).append(self.number)

    def ask(self) -> None:
        self.number += 1
        number = self.number
        self.asked[number] = []
        self.dialer.hub.request("x", Detach(str(number)), self.asked[number].append, timeout=20.0)

    def step(self) -> None:
        self.clock.now += TICK
        for side, way in ((self.dialer, ">"), (self.acceptor, "<")):
            side.hub.tick()
            for item in side.hub.outgoing():
                self._launch(way, item.frames)
        due = [item for item in self.flying if item[0] <= self.clock.now]
        self.flying = [item for item in self.flying if item[0] > self.clock.now]
        due.sort(key=lambda item: item[:2])
        if self.weather.reorder:
            self.rng.shuffle(due)
        for _, _, way, frames in due:
            if way == ">":
                self.acceptor.hub.receive("x", ROUTE, frames)
            else:
                self.dialer.hub.receive("x", b"", frames)

    def _launch(self, way: str, frames: list[Buffer]) -> None:
        copies = 0 if self.rng.random() < self.weather.drop else 1 + (self.rng.random() < self.weather.repeat)
        for _ in range(copies):
            self.count += 1
            delay = self.rng.randint(0, self.weather.delay) if self.weather.delay else 0
            self.flying.append((self.clock.now + delay * TICK, self.count, way, list(frames)))

    def settle(self) -> None:
        """Fair weather until nothing is under way, then as long as the longest silence that counts."""
        self.weather = CALM
        for _ in range(int(25 / TICK)):
            self.step()

    def check(self) -> None:
        sides = [self.dialer, self.acceptor, *self.past]
        for key, numbers in self.sent.items():
            session, from_dialer = key // 2, key % 2
            receivers = [self.acceptor, *self.past] if from_dialer else [self.dialer]
            got = [n for side in receivers for n in side.got.get(session, [])]
            assert got == numbers[: len(got)], "in order, once, from the first on"
            if len(got) < len(numbers):
                ended = [session in side.downs for side in sides if session in side.ups and side not in self.past]
                assert all(ended), "what was not delivered belongs to a session that both sides know has ended"
        for answers in self.asked.values():
            assert len(answers) == 1, "exactly one terminal reply"
        served = [n for side in sides for numbers in side.served.values() for n in numbers]
        assert len(served) == len(set(served)), "no request is executed twice"
        for number, (answer,) in self.asked.items():
            assert answer.error is not None or number in served
        for side in (self.dialer, self.acceptor):
            assert len(side.ups) == len(set(side.ups))
            assert len(side.downs) == len(set(side.downs))
            assert len(side.ups) - len(side.downs) == 1, "fair weather ends with one live session"
        assert self.dialer.ups[-1] == self.acceptor.ups[-1]
        assert self.dialer.hub.idle
        assert self.acceptor.hub.idle


weathers = st.builds(
    Weather,
    drop=st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]),
    repeat=st.sampled_from([0.0, 0.3]),
    delay=st.sampled_from([0, 2, 12]),
    reorder=st.booleans(),
)
acts = st.lists(
    st.one_of(
        st.sampled_from(["push d", "push a", "ask", "restart", "lose d", "lose a"]),
        st.integers(1, 40),
        weathers,
    ),
    max_size=40,
)


def perform(network: Network, act: str | int | Weather) -> None:
    match act:
        case Weather():
            network.weather = act
        case int():
            for _ in range(act):
                network.step()
        case "push d":
            network.push(network.dialer)
        case "push a":
            network.push(network.acceptor)
        case "ask":
            network.ask()
        case "restart":
            network.restart_acceptor()
        case _:
            side = network.dialer if act == "lose d" else network.acceptor
            for peer in side.hub.peers():
                side.hub.lost(peer, PeerLost("said the test"))


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), schedule=acts)
def test_any_schedule_delivers_once_in_order_or_ends_on_both_sides(seed: int, schedule: list[str | int | Weather]):
    network = Network(seed)
    for act in schedule:
        perform(network, act)
    network.settle()
    network.check()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0.0, 0.2, 0.5]), delay=st.sampled_from([0, 3]))
def test_loss_alone_never_ends_a_session(seed: int, drop: float, delay: int):
    network = Network(seed)
    for _ in range(3):
        network.step()
    network.weather = Weather(drop=drop, delay=delay, repeat=0.2, reorder=True)
    for _ in range(60):
        network.push(network.dialer)
        network.push(network.acceptor)
        network.ask()
        network.step()
    network.settle()
    network.check()
    assert network.dialer.downs == []
    assert all(answer.error is None for (answer,) in network.asked.values())


@pytest.mark.slow
@settings(max_examples=3000)
@given(seed=st.integers(0, 2**32), schedule=acts)
def test_thousands_of_schedules(seed: int, schedule: list[str | int | Weather]):
    network = Network(seed)
    for act in schedule:
        perform(network, act)
    network.settle()
    network.check()


def test_a_slow_acceptor_answers_repeated_hellos_with_one_session():
    network = Network(1)
    network.ask()
    network.weather = Weather(delay=0)
    hellos: list[list[Buffer]] = []
    for _ in range(40):  # the acceptor sleeps: hellos pile up
        network.clock.now += TICK
        network.dialer.hub.tick()
        hellos += [item.frames for item in network.dialer.hub.outgoing()]
    assert len(hellos) >= 4
    for frames in hellos:
        network.acceptor.hub.receive("x", ROUTE, frames)
    network.settle()
    network.check()
    assert network.dialer.downs == []
    assert network.asked[1][0].error is None


def test_a_session_that_one_side_alone_has_lost_is_replaced_at_once():
    network = Network(2)
    for _ in range(4):
        network.step()
    (peer,) = network.acceptor.hub.peers()
    network.acceptor.hub.lost(peer, PeerLost("said the test"))
    for _ in range(40):  # 2 s: well before silence counts as death
        network.step()
    assert len(network.dialer.downs) == 1
    assert len(network.dialer.ups) == len(network.acceptor.ups) == 2


def test_a_dialer_that_gave_up_on_silence_comes_back():
    network = Network(3)
    for _ in range(4):
        network.step()
    network.weather = Weather(drop=1.0)
    for _ in range(int(20 / TICK)):
        network.step()
    assert network.dialer.hub.peers() == []
    assert network.acceptor.hub.peers() == []
    network.settle()
    network.check()


def test_requests_wait_for_a_restarted_acceptor():
    network = Network(4)
    network.ask()
    for _ in range(6):
        network.step()
    network.restart_acceptor()
    network.weather = Weather(drop=1.0)
    for peer in network.dialer.hub.peers():
        network.dialer.hub.lost(peer, PeerLost("the process has died"))
    network.ask()
    for _ in range(40):
        network.step()
    assert network.asked[2] == []
    network.settle()
    network.check()
    assert network.asked[2][0].error is None


def test_both_close_at_once():
    network = Network(5)
    for _ in range(4):
        network.step()
    cause = PieError("done")
    network.dialer.hub.close(cause)
    network.acceptor.hub.close(cause)
    for _ in range(40):
        network.step()
    assert network.dialer.downs == network.dialer.ups
    assert network.acceptor.downs == network.acceptor.ups
    assert not network.flying


def test_peers_know_the_work_the_other_has_done():
    network = Network(6)
    for _ in range(4):
        network.step()
    network.acceptor.hub.progress = 7
    for _ in range(15):
        network.step()
    (peer,) = network.dialer.hub.peers()
    assert network.dialer.hub.progress_of(peer) == 7
    assert not network.dialer.hub.is_stuck(peer)


def test_a_silent_peer_is_stuck_then_well_again():
    network = Network(7)
    for _ in range(4):
        network.step()
    (peer,) = network.dialer.hub.peers()
    network.weather = Weather(drop=1.0)
    for _ in range(int(3 / TICK)):
        network.step()
    assert network.dialer.hub.is_stuck(peer)
    network.settle()
    assert not network.dialer.hub.is_stuck(peer)
    assert peer.alive


def test_kill_is_a_push_that_this_side_does_not_handle():
    network = Network(8)
    for _ in range(4):
        network.step()
    (peer,) = network.dialer.hub.peers()
    assert network.dialer.hub.send(peer, Kill("p", "test"))
    network.settle()
    network.check()
    assert isinstance(peer, Peer)
    assert peer.alive
