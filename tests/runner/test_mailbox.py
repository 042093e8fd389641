"""Messages meet receives in the order both were made."""

from __future__ import annotations

import pytest
from pie_runner.mailbox import Letter, Mailbox
from pie_runner.waitables import Waitables
from pie_runner.wasm.hostcall import Case, Err, Ok
from pie_wire.errors import Overloaded, TooLarge

MOST = 8


@pytest.fixture
def box() -> Mailbox:
    return Mailbox(Waitables(), MOST, 1000)


def test_messages_before_and_after_their_receives(box):
    box.deliver(Letter("text", "one"))
    first, second = box.receive(), box.receive()
    assert second.get() is None

    box.deliver(Letter("data", b"two"))

    assert first.get() == Ok(Case("text", "one"))
    assert second.get() == Ok(Case("data", b"two"))
    assert isinstance(second.get(), Err)


def test_room_is_counted_in_bytes():
    box = Mailbox(Waitables(), MOST, 10)
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
    for _ in range(MOST):
        box.deliver(Letter("text", "x"))

    with pytest.raises(Overloaded, match=r"its limit messages = 8: .*`messages` of the runner"):
        box.deliver(Letter("text", "x"))


def test_a_box_that_holds_too_much_says_so_and_takes_less(box):
    box.deliver(Letter("data", bytes(600)))

    with pytest.raises(Overloaded, match="its limit message_bytes = 1000"):
        box.deliver(Letter("data", bytes(401)))
    box.deliver(Letter("data", bytes(400)))

    assert (len(box), box.size) == (2, 1000)


@pytest.mark.parametrize(("most", "size", "name"), [(MOST, 1001, "message_bytes"), (0, 1, "messages")])
def test_what_never_has_room_is_not_worth_a_retry(most: int, size: int, name: str):
    box = Mailbox(Waitables(), most, 1000, lambda name: f"{name} of somebody")

    with pytest.raises(TooLarge, match=f"its limit {name} = .*{name} of somebody"):
        box.deliver(Letter("data", bytes(size)))


def test_messages_that_receives_have_and_nobody_got_fill_it(box):
    receives = [box.receive() for _ in range(MOST + 1)]
    for _ in range(MOST):
        box.deliver(Letter("text", "x"))
    with pytest.raises(Overloaded):
        box.deliver(Letter("text", "x"))

    receives[0].get()
    receives[1].close()
    box.deliver(Letter("text", "y"))

    assert receives[MOST].get() == Ok(Case("text", "x"))
    assert box.receive().get() == Ok(Case("text", "y"))
    assert (len(box), box.size) == (MOST - 2, MOST - 2)
