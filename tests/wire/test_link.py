"""One end of a link, alone: what it answers to what it gets."""

from __future__ import annotations

import pytest
from pie_wire.codec import Header, decode, encode, encode_body, parse
from pie_wire.errors import BadField, Overloaded, PeerLost, ProtocolError
from pie_wire.link import ACK_WITHIN, Complaint, Deliver, Down, Link, State, Timing, Up
from pie_wire.messages.base import Message
from pie_wire.messages.link import Beat, Bye, Hello, Identity, LinkMessage, Ready, Refused, Rehello, Resend

ME = Identity("client", "me", 0, "m")
THEM = Identity("gateway", "them", 0, "t")


class Bench:
    """A link with shortcuts; `session` is 7 once it is up."""

    def __init__(self, *, dialer: bool) -> None:
        self.now = 0.0
        self.link = Link(lambda: ME, dialer=dialer, timing=Timing(), now=0.0)
        if dialer:
            self.tick()
            (hello,) = self.take()
            assert isinstance(hello, Hello)
            self.control(Ready(1, 0, THEM, 7, attempt=hello.attempt), session=7)
        else:
            self.link.accept(Hello(1, 0, THEM, attempt=5), 7, 0.0)
        self.take()
        assert self.events() == [Up(THEM, 7)]

    def tick(self, seconds: float = 0.0) -> None:
        for _ in range(max(1, round(seconds / 0.05))):
            self.now += seconds and 0.05
            self.link.tick(self.now)

    def control(self, message: LinkMessage, *, session: int = 0, ack: int = 0) -> None:
        frame = encode(message.verb.encode(), Header(session=session, ack=ack), encode_body(message))
        self.link.receive(parse(frame), self.now)

    def data(self, seq: int, *, session: int = 7, ack: int = 0) -> None:
        frame = encode(b"gw.x", Header(session=session, seq=seq, ack=ack), b"\x80")
        self.link.receive(parse(frame), self.now)

    def take(self) -> list[Message]:
        """Link messages that went out."""
        frames = [parse(parts) for parts in self.link.out]
        self.link.out.clear()
        return [decode(frame) for frame in frames if frame.verb.startswith(b"link.")]

    def events(self) -> list[object]:
        found = list(self.link.events)
        self.link.events.clear()
        return found


@pytest.fixture(params=[True, False], ids=["dialer", "acceptor"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(dialer=bool(request.param))


def test_delivery_gap_and_resend(bench: Bench):
    bench.data(1)
    bench.data(3)
    assert [type(event) for event in bench.events()] == [Deliver]
    assert bench.take() == [Resend(2)]

    bench.data(2)
    bench.data(3)
    assert len(bench.events()) == 2


def test_a_beat_shows_a_lost_tail(bench: Bench):
    bench.control(Beat(sent=2, progress=9), session=7)

    assert bench.take() == [Resend(1)]
    assert bench.link.peer_progress == 9


def test_beats_come_twice_a_second(bench: Bench):
    bench.tick(2.0)

    assert 4 <= len([m for m in bench.take() if isinstance(m, Beat)]) <= 5


def test_what_was_received_is_acknowledged_soon(bench: Bench):
    bench.tick(0.05)
    bench.take()
    bench.data(1)
    bench.tick(0.05)
    assert not bench.take()
    bench.tick(ACK_WITHIN + 0.05)

    assert [type(message) for message in bench.take()] == [Beat]
    assert not bench.link.is_stuck(bench.now)


def test_silence_is_stuck_and_then_dead(bench: Bench):
    bench.tick(2.2)
    assert bench.link.is_stuck(bench.now)
    assert bench.events() == []

    bench.take()
    bench.tick(13.0)
    (down,) = bench.events()
    assert isinstance(down, Down)
    assert any(isinstance(message, Bye) for message in bench.take())
    assert bench.link.state is not State.UP


def test_bye_carries_the_cause(bench: Bench):
    bench.control(Bye(Overloaded("too much").info()), session=7)

    (down,) = bench.events()
    assert isinstance(down, Down)
    assert isinstance(down.cause, Overloaded)


def test_a_bye_of_another_session_is_ignored(bench: Bench):
    bench.control(Bye(Overloaded("too much").info()), session=6)

    assert bench.events() == []
    assert bench.link.state is State.UP


@pytest.mark.parametrize("stray", ["data", "beat", "resend"])
def test_frames_of_another_session_lead_to_a_greeting_but_not_to_a_storm(bench: Bench, stray: str):
    bench.tick(1.0)
    bench.take()
    for seq in range(1, 100):
        match stray:
            case "data":
                bench.data(seq, session=6)
            case "beat":
                bench.control(Beat(), session=6)
            case _:
                bench.control(Resend(1), session=6)

    (answer,) = bench.take()
    assert isinstance(answer, Hello | Rehello)
    assert bench.events() == []


def test_a_complaint_leaves_the_session_alone(bench: Bench):
    bench.control(Refused(Overloaded("no").info()))

    (complaint,) = bench.events()
    assert isinstance(complaint, Complaint)
    assert bench.link.state is State.UP


def test_nothing_is_sent_on_a_link_that_is_not_up(bench: Bench):
    bench.link.close(PeerLost("done"))
    bench.events()

    with pytest.raises(PeerLost):
        bench.link.send(b"x", Header(), b"")
    bench.data(1)
    bench.tick(1.0)
    assert bench.events() == []


@pytest.mark.parametrize(
    ("dialer", "message"),
    [(True, Hello(1, 0, THEM)), (False, Ready(1, 0, THEM, 8)), (False, Rehello())],
)
def test_messages_on_the_wrong_side(dialer: bool, message: LinkMessage):
    with pytest.raises(ProtocolError, match="does not belong"):
        Bench(dialer=dialer).control(message)


def test_an_old_ready_is_ignored():
    bench = Bench(dialer=True)
    bench.control(Ready(1, 0, THEM, 8, attempt=1))

    assert bench.events() == []
    assert bench.link.session == 7


def test_a_session_number_is_positive():
    bench = Bench(dialer=True)

    with pytest.raises(BadField, match="positive"):
        bench.control(Ready(1, 0, THEM, 0, attempt=2))


def test_a_lost_session_is_told_before_its_successor():
    bench = Bench(dialer=True)
    bench.control(Rehello())
    bench.tick(0.5)
    bench.control(Rehello())
    hello = next(message for message in bench.take() if isinstance(message, Hello))
    assert hello.session == 7

    bench.control(Ready(1, 0, THEM, 9, attempt=hello.attempt))
    assert [type(event) for event in bench.events()] == [Down, Up]


def test_a_dialer_that_was_refused_waits_before_it_greets_again():
    link = Link(lambda: ME, dialer=True, timing=Timing(), now=0.0)
    link.tick(0.0)
    hello = decode(parse(link.out.pop()))
    assert isinstance(hello, Hello)
    refused = encode(b"link.refused", Header(), encode_body(Refused(Overloaded("full").info(), hello.attempt)))
    link.receive(parse(refused), 0.0)

    assert isinstance(link.refusal, Overloaded)
    link.tick(0.9)
    assert link.out == []
    link.tick(1.1)
    assert len(link.out) == 1


def test_unanswered_greetings_become_rare():
    link = Link(lambda: ME, dialer=True, timing=Timing(), now=0.0)
    for tick in range(1200):
        link.tick(tick * 0.05)

    assert 25 <= len(link.out) <= 40
