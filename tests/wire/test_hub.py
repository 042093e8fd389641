"""Handlers, requests and what callbacks may do while they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from pair import PORT, Pair
from pie_wire import channel, codec, hub
from pie_wire.codec import Buffer, Header, encode, encode_body
from pie_wire.errors import (
    DeadlineExceeded,
    NotFound,
    Overloaded,
    PeerLost,
    PieError,
    StaleEpoch,
    TooLarge,
    Unavailable,
    UnknownVerb,
    VersionMismatch,
)
from pie_wire.hub import Answer, Incoming, Peer, Scope
from pie_wire.messages.base import Done
from pie_wire.messages.client import ProcessEvents, Replaced
from pie_wire.messages.common import Event
from pie_wire.messages.gateway import AckEvents, Attach, Attached, Detach, Launch, Launched
from pie_wire.messages.link import Hello, Identity


def ask(pair: Pair, to: Peer | str = PORT, pid: str = "p", timeout: float = 2.0) -> list[Answer[Done]]:
    answers: list[Answer[Done]] = []
    pair.dialer.hub.request(to, Detach(pid), answers.append, timeout=timeout)
    return answers


def test_reply_now_later_and_with_an_error():
    pair = Pair()
    held: list[Incoming[Attach]] = []

    def refuse(incoming: Incoming[Detach]) -> Done:
        raise NotFound(f"no process {incoming.message.pid}")

    pair.acceptor.hub.on(Detach, refuse)
    pair.acceptor.hub.on(Launch, lambda incoming: Launched(incoming.message.pid, incoming.scope.user))
    pair.acceptor.hub.on(Attach, held.append)
    launched: list[Answer[Launched]] = []
    attached: list[Answer[Attached]] = []

    refused = ask(pair)
    pair.dialer.hub.request(PORT, Launch("a", "b"), launched.append, timeout=2.0, scope=Scope("t", "ada", "trace"))
    pair.dialer.hub.request(PORT, Attach("a"), attached.append, timeout=20.0)
    pair.run()
    assert isinstance(refused[0].error, NotFound)
    assert launched[0].value() == Launched("a", "ada")
    assert attached == []

    held[0].fail(Unavailable("later"))
    held[0].fail(NotFound("a second answer"))
    pair.run()
    assert [type(answer.error) for answer in attached] == [Unavailable]


def test_a_defect_in_a_handler_is_an_internal_error():
    pair = Pair()

    def broken(incoming: Incoming[Detach]) -> Done:
        raise ZeroDivisionError

    pair.acceptor.hub.on(Detach, broken)
    answers = ask(pair)
    pair.run()

    assert answers[0].error is not None
    assert answers[0].error.code == "internal"
    assert pair.acceptor.said == ["up"]


def test_messages_nobody_handles():
    pair = Pair()
    there, here = pair.up()

    answers = ask(pair, there)
    assert pair.acceptor.hub.send(here, Replaced("p"))
    assert pair.dialer.hub.send(there, AckEvents(["p"], [1]))
    pair.run()

    assert isinstance(answers[0].error, UnknownVerb)
    assert there.alive
    assert here.alive


def test_deadlines():
    pair = Pair()
    pair.acceptor.hub.on(Detach, lambda incoming: None)
    there, _ = pair.up()

    late = ask(pair, there, timeout=1.0)
    pair.run(0.9)
    assert late == []
    pair.run(0.2)

    assert isinstance(late[0].error, DeadlineExceeded)


def test_an_answer_after_the_deadline_is_dropped():
    pair = Pair()
    held: list[Incoming[Detach]] = []
    pair.acceptor.hub.on(Detach, held.append)
    answers = ask(pair, timeout=1.0)
    pair.run(2.0)

    held[0].reply(Done())
    pair.run()

    assert [type(answer.error) for answer in answers] == [DeadlineExceeded]


def test_a_cancelled_request_is_forgotten():
    pair = Pair()
    there, _ = pair.up()
    called: list[object] = []

    waiting = pair.dialer.hub.request("elsewhere", Detach("p"), called.append, timeout=1.0)
    sent = pair.dialer.hub.request(there, Detach("p"), called.append, timeout=1.0)
    pair.dialer.hub.cancel(waiting)
    pair.dialer.hub.cancel(sent)
    pair.run(2.0)

    assert called == []


def test_the_ttl_counts_from_the_request_not_from_the_link():
    pair = Pair()
    seen: list[int] = []
    pair.acceptor.hub.on(Detach, lambda incoming: seen.append(incoming.header.ttl))
    ask(pair, timeout=2.0)
    pair.clock.now += 1.0

    pair.run()

    assert 500 < seen[0] < 1000


def test_handlers_may_answer_a_peer_that_has_gone():
    pair = Pair()
    held: list[Incoming[Detach]] = []
    pair.acceptor.hub.on(Detach, held.append)
    there, here = pair.up()
    answers = ask(pair, there)
    pair.run()
    pair.dialer.hub.lost(there, PeerLost("said the test"))
    pair.run()

    held[0].reply(Done())
    pair.run()

    assert not here.alive
    assert [type(answer.error) for answer in answers] == [PeerLost]
    assert pair.dialer.said == ["up", "down", "up"]


def test_a_push_to_a_peer_that_has_gone_says_so():
    pair = Pair()
    there, here = pair.up()
    pair.dialer.hub.hang_up(PORT, PeerLost("done"))
    pair.run()

    assert not pair.dialer.hub.send(there, AckEvents(["p"], [1]))
    assert not pair.acceptor.hub.send(here, Replaced("p"))


def test_then_is_never_called_inside_request():
    pair = Pair()
    there, _ = pair.up()
    pair.dialer.hub.lost(there, PeerLost("said the test"))

    answers = ask(pair, there)
    assert answers == []
    pair.run(0.1)

    assert isinstance(answers[0].error, PeerLost)


def test_asking_a_dead_peer_again_and_again_from_its_answer():
    pair = Pair()
    there, _ = pair.up()
    tries: list[PieError | None] = []

    def again(answer: Answer[Done]) -> None:
        tries.append(answer.error)
        pair.dialer.hub.request(there, Detach("p"), again, timeout=1.0)

    pair.dialer.hub.request(there, Detach("p"), again, timeout=1.0)
    pair.dialer.hub.lost(there, PeerLost("said the test"))
    pair.run(0.5)

    assert 2 <= len(tries) <= 12


def test_pending_requests_fail_before_down_is_told():
    pair = Pair()
    pair.acceptor.hub.on(Detach, lambda incoming: None)
    there, _ = pair.up()
    order: list[str] = []
    pair.dialer.hub.request(there, Detach("p"), lambda _: order.append("answer"), timeout=9.0)
    pair.dialer.hub.on_down(lambda peer, cause: order.append("down"))
    pair.run()

    pair.dialer.hub.lost(there, PeerLost("said the test"))

    assert order == ["answer", "down"]


def test_requests_made_in_up_and_down():
    pair = Pair()
    pair.acceptor.hub.on(Detach, lambda incoming: Done())
    answers: list[Answer[Done]] = []

    def request(*_: object) -> None:
        pair.dialer.hub.request(PORT, Detach("p"), answers.append, timeout=5.0)

    pair.dialer.hub.on_up(request)
    pair.dialer.hub.on_down(request)
    there, _ = pair.up()
    pair.dialer.hub.lost(there, PeerLost("said the test"))
    pair.run()

    assert [answer.error for answer in answers] == [None, None, None]


@pytest.mark.parametrize("act", ["hang up", "close", "lose"])
@pytest.mark.parametrize("moment", ["up", "message", "answer"])
def test_ending_a_link_in_a_callback(act: str, moment: str):
    pair = Pair()
    other: list[str] = []
    pair.acceptor.hub.on(Detach, lambda incoming: Done())

    def lose() -> None:
        for peer in pair.dialer.hub.peers():
            pair.dialer.hub.lost(peer, PeerLost("in a callback"))

    ends: dict[str, Callable[[], None]] = {
        "hang up": lambda: pair.dialer.hub.hang_up(PORT, PeerLost("in a callback")),
        "close": lambda: pair.dialer.hub.close(PeerLost("in a callback")),
        "lose": lose,
    }
    armed = [True]

    def end(*_: object) -> None:
        if armed:
            armed.clear()
            ends[act]()
            other.append("returned")

    if moment == "up":
        pair.dialer.hub.on_up(end)
    pair.dialer.hub.on(Replaced, end)
    pair.dialer.hub.on_up(lambda peer: other.append("up"))
    pair.dialer.hub.on_down(lambda peer, cause: other.append("down"))
    pair.run(0.1)
    for peer in pair.dialer.hub.peers():
        pair.dialer.hub.request(peer, Detach("p"), end if moment == "answer" else lambda _: None, timeout=1.0)
    if moment == "message":
        for peer in pair.acceptor.hub.peers():
            pair.acceptor.hub.send(peer, Replaced("p"))
            pair.acceptor.hub.send(peer, Replaced("q"))
    pair.run()

    assert other.index("returned") < other.index("down"), "the end is told after the callback has returned"
    assert other.index("up") < other.index("down"), "every listener hears of a peer before it hears of its end"
    assert other.count("down") == 1


def test_sending_in_a_callback_keeps_order():
    pair = Pair()
    got: list[int] = []
    pair.acceptor.hub.on(AckEvents, lambda incoming: got.append(incoming.message.seqs[0]))

    def echo(incoming: Incoming[Replaced]) -> None:
        for number in (1, 2, 3):
            pair.dialer.hub.send(incoming.peer, AckEvents(["p"], [number]))

    pair.dialer.hub.on(Replaced, echo)
    there, here = pair.up()
    pair.acceptor.hub.send(here, Replaced("p"))
    pair.dialer.hub.send(there, AckEvents(["p"], [0]))
    pair.run()

    assert got == [0, 1, 2, 3]


def test_a_callback_that_raises_disturbs_nobody():
    pair = Pair()
    pair.acceptor.hub.on(Detach, lambda incoming: Done())
    heard: list[str] = []

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    pair.dialer.hub.on_up(broken)
    pair.dialer.hub.on_up(lambda peer: heard.append("up"))
    pair.dialer.hub.on_down(broken)
    pair.dialer.hub.on_down(lambda peer, cause: heard.append("down"))
    there, _ = pair.up()
    pair.dialer.hub.request(there, Detach("p"), broken, timeout=1.0)
    answers = ask(pair, there)
    pair.run()
    pair.dialer.hub.lost(there, PeerLost("said the test"))

    assert answers[0].error is None
    assert heard == ["up", "down"]


def test_an_overfull_backlog_ends_the_session_and_a_new_one_begins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channel, "BACKLOG_BYTES", 10_000)
    monkeypatch.setattr(channel, "WINDOW_FRAMES", 1)
    pair = Pair()
    there, here = pair.up()

    sent = 0
    while pair.dialer.hub.send(there, AckEvents(["p" * 100], [sent])):
        sent += 1
    pair.run()

    assert 10 < sent < 200
    assert isinstance(pair.dialer.cause, Overloaded)
    assert not here.alive
    assert pair.dialer.said == ["up", "down", "up"]
    assert pair.acceptor.said == ["up", "down", "up"]


def test_limits_of_requests_and_buffers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codec, "MAX_BUFFERS", 2)
    pair = Pair()
    pair.acceptor.hub.on(Detach, lambda incoming: incoming.reply(Done(), [b""] * 3))
    there, _ = pair.up()

    with pytest.raises(TooLarge):
        pair.dialer.hub.send(there, AckEvents(["p"], [1]), buffers=[b""] * 3)
    with pytest.raises(TooLarge):
        pair.dialer.hub.request(there, Detach("p"), lambda _: None, timeout=1.0, buffers=[b""] * 3)
    answers = ask(pair, there)
    pair.run()
    assert isinstance(answers[0].error, TooLarge), "a reply that cannot be sent is an error reply"

    monkeypatch.setattr(hub, "MAX_PENDING", 3)
    for _ in range(3):
        ask(pair, "elsewhere")
    with pytest.raises(Overloaded):
        ask(pair, "elsewhere")


def test_links_are_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "MAX_LINKS", 1)
    pair = Pair()
    second = pair.dial(b"r1")
    answers: list[Answer[Done]] = []
    second.hub.request(PORT, Detach("p"), answers.append, timeout=1.0)
    pair.run(1.5)

    assert isinstance(second.hub.refusal(PORT), Overloaded)
    assert isinstance(answers[0].error, Overloaded)
    pair.dialer.hub.hang_up(PORT, PeerLost("done"))
    pair.run(1.5)
    assert second.said == ["up"]


def test_a_newer_incarnation_replaces_an_older_one():
    pair = Pair()
    old = pair.dial(b"r1", "runner", epoch=3, name="one")
    pair.run()
    new = pair.dial(b"r2", "runner", epoch=4, name="one")
    pair.run(3.0)

    assert new.said == ["up"]
    assert old.said == ["up", "down"]
    assert isinstance(old.cause, StaleEpoch)
    assert isinstance(old.hub.refusal(PORT), StaleEpoch)
    assert old.hub.peers() == []


def test_versions_must_agree_and_dialing_again_tries_again(monkeypatch: pytest.MonkeyPatch):
    pair = Pair()
    monkeypatch.setattr(hub, "PROTOCOL_VERSION", (2, 0))
    answers = ask(pair)
    pair.run(3.0)

    assert isinstance(pair.dialer.hub.refusal(PORT), VersionMismatch)
    assert isinstance(answers[0].error, VersionMismatch)
    monkeypatch.undo()
    pair.run()
    assert pair.dialer.said == []
    pair.dialer.hub.dial(PORT)
    pair.run()
    assert pair.dialer.said == ["up"]


def test_dialing_again_and_again_does_not_flood_who_refuses(monkeypatch: pytest.MonkeyPatch):
    pair = Pair()
    monkeypatch.setattr(hub, "PROTOCOL_VERSION", (2, 0))
    hellos = 0
    receive = pair.acceptor.hub.receive

    def counting(port: str, route: bytes, frames: Sequence[Buffer]) -> None:
        nonlocal hellos
        hellos += bytes(frames[-3]) == b"link.hello"
        receive(port, route, frames)

    monkeypatch.setattr(pair.acceptor.hub, "receive", counting)
    for _ in range(60):
        pair.dialer.hub.dial(PORT)
        pair.run(0.05)

    assert 2 <= hellos <= 4


def test_dialing_twice_changes_nothing():
    pair = Pair()
    there, _ = pair.up()
    pair.dialer.hub.dial(PORT)
    pair.run()

    assert pair.dialer.hub.peer(PORT) is there


def test_a_session_is_resumed_after_a_rehello():
    pair = Pair()
    got: list[int] = []
    pair.acceptor.hub.on(AckEvents, lambda incoming: got.append(incoming.message.seqs[0]))
    there, _ = pair.up()
    pair.dialer.hub.send(there, AckEvents(["p"], [1]))
    pair.dialer.hub.outgoing()  # lost
    pair.dialer.hub.receive(PORT, b"", encode(b"link.rehello", Header(), b"\x80"))
    pair.run()

    assert got == [1]
    assert pair.dialer.said == ["up"]


def test_a_hello_that_was_overtaken_is_ignored():
    pair = Pair()
    there, here = pair.up()
    stale = Hello(1, 0, Identity("client", "client", 0, pair.dialer.hub.identity.incarnation), attempt=1)
    pair.dialer.hub.lost(there, PeerLost("said the test"))
    pair.run()
    sessions = [peer.session for peer in pair.acceptor.hub.peers()]

    pair.acceptor.hub.receive(PORT, b"r0", encode(b"link.hello", Header(), encode_body(stale)))
    pair.run()

    assert [peer.session for peer in pair.acceptor.hub.peers()] == sessions
    assert not here.alive


def test_a_hub_that_slept_blames_nobody():
    pair = Pair()
    there, here = pair.up()
    pair.clock.now += 60.0
    pair.run()

    assert there.alive
    assert here.alive


def test_binary_events_cross():
    pair = Pair()
    got: list[Event] = []
    pair.dialer.hub.on(ProcessEvents, lambda incoming: got.extend(incoming.message.events))
    _, here = pair.up()
    pair.acceptor.hub.send(here, ProcessEvents(["p"], [1], [Event(1, "binary", data=b"\x00\xff")]))
    pair.run()

    assert got == [Event(1, "binary", data=b"\x00\xff")]


def test_a_trace_begins_with_a_request_and_is_kept():
    pair = Pair()
    seen: list[Scope] = []

    def launched(incoming: Incoming[Launch]) -> Launched:
        seen.append(incoming.scope)
        return Launched(incoming.message.pid, "p")

    pair.acceptor.hub.on(Launch, launched)
    for scope in (None, None, Scope(trace="mine")):
        pair.dialer.hub.request(PORT, Launch("p", "x"), lambda answer: None, timeout=5.0, scope=scope)
    pair.run()

    first, second, third = seen
    assert first.trace
    assert first.trace != second.trace
    assert third.trace == "mine"
    assert first == second == third
