"""Messages meet receives in the order both were made."""

from __future__ import annotations

import pytest
from pie_runner.mailbox import MAX_MESSAGES, Letter, Mailbox
from pie_runner.waitables import Waitables
from pie_runner.wasm.hostcall import Case, Err, Ok
from pie_wire.errors import Overloaded


@pytest.fixture
def box() -> Mailbox:
    return Mailbox(Waitables())


def test_messages_before_and_after_their_receives(box):
    box.deliver(Letter("text", "one"))
    first, second = box.receive(), box.receive()
    assert second.get() is None

    box.deliver(Letter("data", b"two"))

    assert first.get() == Ok(Case("text", "one"))
    assert second.get() == Ok(Case("data", b"two"))
    assert isinstance(second.get(), Err)


def test_room_is_counted_in_bytes():
    box = Mailbox(Waitables(), max_bytes=10)
    box.deliver(Letter("text", "äöü"))
    assert box.size == 6

    with pytest.raises(Overloaded):
        box.deliver(Letter("text", "€€"))
    box.receive().get()

    assert box.size == 0


def test_a_dropped_receive_puts_its_message_back_at_the_head(box):
    dropped = box.receive()
    box.deliver(Letter("text", "one"))
    box.deliver(Letter("text", "two"))

    dropped.close()

    assert box.receive().get() == Ok(Case("text", "one"))
    assert box.receive().get() == Ok(Case("text", "two"))


def test_a_receive_dropped_early_takes_nothing(box):
    box.receive().close()
    box.deliver(Letter("text", "one"))

    assert box.receive().get() == Ok(Case("text", "one"))


def test_a_taken_message_is_not_put_back(box):
    receive = box.receive()
    box.deliver(Letter("text", "one"))
    receive.get()
    receive.close()

    assert box.receive().get() is None


def test_a_full_box_refuses(box):
    for _ in range(MAX_MESSAGES):
        box.deliver(Letter("text", "x"))

    with pytest.raises(Overloaded):
        box.deliver(Letter("text", "x"))


def test_messages_that_receives_have_and_nobody_got_fill_it(box):
    receives = [box.receive() for _ in range(MAX_MESSAGES + 1)]
    for _ in range(MAX_MESSAGES):
        box.deliver(Letter("text", "x"))
    with pytest.raises(Overloaded):
        box.deliver(Letter("text", "x"))

    receives[0].get()
    receives[1].close()
    box.deliver(Letter("text", "y"))

    assert receives[MAX_MESSAGES].get() == Ok(Case("text", "x"))
    assert box.receive().get() == Ok(Case("text", "y"))
    assert (len(box), box.size) == (MAX_MESSAGES - 2, MAX_MESSAGES - 2)
