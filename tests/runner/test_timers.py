"""Timers and draws: order, cancelling, repeatability."""

from __future__ import annotations

from pie_runner.draws import Draws
from pie_runner.timers import Timers


def test_due_calls_are_made_in_order_of_time():
    timers, made = Timers(), []
    timers.at(2.0, lambda: made.append("b"))
    timers.at(1.0, lambda: made.append("a"))
    timers.at(3.0, lambda: made.append("c"))

    timers.run(2.5)

    assert made == ["a", "b"]
    assert timers.next_at() == 3.0


def test_cancelled_calls_are_not_made_and_do_not_pile_up():
    timers, made = Timers(), []
    keep = timers.at(5000.0, lambda: made.append("kept"))
    for i in range(1000):
        timers.at(float(i), lambda: made.append("no"))()

    assert len(timers._heap) < 200
    timers.run(10_000.0)
    assert made == ["kept"]
    keep()
    assert timers.next_at() is None


def test_draws_repeat_from_their_key_and_differ_from_each_other():
    one, again, other = Draws(b"key"), Draws(b"key"), Draws(b"yek")

    taken = [one.take(8), one.take(8)]

    assert taken == [again.take(8), again.take(8)]
    assert taken[0] != taken[1]
    assert other.take(8) not in taken
    assert 0 <= one.seed() < 2**63
