"""When events leave a runner: at once if nobody is about to add to them, else within a moment."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pie_runner.events import EventLog
from pie_runner.uplink import BUSY_PAUSE, EVENT_PAUSE, Uplink
from pie_wire.hub import Answer
from pie_wire.messages.gateway import Events, Recovered


class Link:
    """A hub with a gateway at the other end that knows every process."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[Events] = []

    def clock(self) -> float:
        return self.now

    def send(self, peer: object, message: Events) -> None:
        self.sent.append(message)

    def request(self, peer: object, message: object, then: Callable[[Answer[Any]], None], *, timeout: float) -> int:
        then(Answer(Recovered({}, {}), None))
        return 1


class Stand:
    def __init__(self, count: int) -> None:
        self.link = Link()
        self.processes: dict[str, Any] = {
            f"p{at}": SimpleNamespace(pid=f"p{at}", events=EventLog()) for at in range(count)
        }
        link: Any = self.link
        peer: Any = object()
        known: dict[str, Any] = {}
        self.uplink = Uplink(link, known, 8, frozenset(), lambda process: None, lambda: None)
        self.uplink.up(peer)
        known |= self.processes

    def say(self, pid: str) -> None:
        process = self.processes[pid]
        process.events.add("message", "word")
        self.uplink.written(process)

    def flush(self, *, busy: bool = False, after: float = 0.0) -> list[list[str]]:
        """The end of a loop turn so many seconds later; whose events left."""
        self.link.now += after
        self.uplink.flush(self.link.now, busy=busy)
        sent, self.link.sent = self.link.sent, []
        return [message.pids for message in sent]


@pytest.fixture
def stand() -> Stand:
    return Stand(3)


def test_what_nobody_is_about_to_add_to_leaves_at_once(stand: Stand):
    stand.say("p0")
    assert stand.flush() == [["p0"]]


def test_programs_of_one_step_speak_in_one_message(stand: Stand):
    spoken: list[list[str]] = []
    for pid in ("p0", "p1"):
        stand.say(pid)
        spoken += stand.flush(busy=True, after=0.005)
    stand.say("p2")
    assert spoken == []
    assert stand.flush(after=0.005) == [["p0", "p1", "p2"]]


def test_the_first_event_waits_for_others_no_longer_than_a_moment(stand: Stand):
    stand.flush(after=10.0)  # nothing has been said for long, which is no reason to hurry
    stand.say("p0")
    assert stand.flush(busy=True) == []
    stand.say("p1")
    assert stand.flush(busy=True, after=BUSY_PAUSE * 0.9) == []
    assert stand.flush(busy=True, after=BUSY_PAUSE * 0.2) == [["p0", "p1"]]
    stand.say("p2")
    assert stand.flush(busy=True, after=BUSY_PAUSE * 0.5) == []  # a moment of its own


def test_a_program_that_goes_on_speaking_is_heard_after_each_pause(stand: Stand):
    stand.say("p0")
    stand.flush()
    stand.say("p0")
    assert stand.flush() == []
    assert stand.flush(after=EVENT_PAUSE) == [["p0"]]
