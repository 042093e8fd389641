"""Events of many processes in one message."""

from __future__ import annotations

from pie_gateway.deliveries import MESSAGE_BYTES, Deliveries
from pie_gateway.session import Session
from pie_wire.messages.base import Push
from pie_wire.messages.client import ProcessEvents
from pie_wire.messages.common import Event


def _events(*numbers: int, text: str = "x") -> list[Event]:
    return [Event(number, "message", text) for number in numbers]


def test_one_message_for_each_session():
    one: list[Push] = []
    other: list[Push] = []
    deliveries, first, second = Deliveries(), Session("one", one.append), Session("other", other.append)

    deliveries.add(first, "a", _events(1))
    deliveries.add(second, "b", _events(4))
    deliveries.add(first, "c", _events(7, 8))
    deliveries.add(first, "c", _events(9))
    assert not one
    deliveries.flush()
    deliveries.flush()

    assert one == [ProcessEvents(["a", "c"], [1, 3], [*_events(1), *_events(7, 8, 9)])]
    assert other == [ProcessEvents(["b"], [1], _events(4))]


def test_a_large_message_leaves_before_it_is_too_large():
    sent: list[Push] = []
    deliveries, session = Deliveries(), Session("s", sent.append)
    large = "x" * (MESSAGE_BYTES // 2)

    for number in range(1, 6):
        deliveries.add(session, "a", _events(number, text=large))
    deliveries.flush()

    assert [len(push.events) for push in sent if isinstance(push, ProcessEvents)] == [2, 2, 1]
