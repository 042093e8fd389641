"""What is remembered of operations until the engine has applied them."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from pie_runner.journal import Birth, Journal, Undo
from pie_runner.layout import PLAIN


def undo(number: int, keep: int = 0, generation: int = 0) -> Undo:
    return Undo(number, generation, keep, [], PLAIN)


def test_what_was_not_applied_comes_back_newest_first():
    journal = Journal()
    for entry in (Birth(3), undo(5, 1), undo(9, 2)):
        journal.add(entry)

    assert journal.last == 9
    assert [entry.number for entry in journal.take_back(5, 1)] == [9, 5]
    assert journal.last == 3
    assert [type(entry) for entry in journal.take_back(1, 0)] == [Birth]
    assert not journal
    assert journal.last == 0


def test_what_was_sent_when_the_failure_was_known_stays():
    """Operation 6 is told to have been skipped after 8 was sent, in the new generation."""
    journal = Journal()
    for entry in (undo(4), undo(8, generation=1)):
        journal.add(entry)

    assert list(journal.take_back(6, 1)) == []
    assert [entry.number for entry in journal.take_back(6, 2)] == [8]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=30))
def test_it_holds_what_is_neither_applied_nor_taken_back(steps: list[tuple[bool, int]]):
    journal, held = Journal(), list[int]()
    for number, (applied, bound) in enumerate(steps, 1):
        journal.add(undo(number))
        held.append(number)
        if applied:
            journal.acknowledge(bound)
            held = [each for each in held if each > bound]
        else:
            taken = [entry.number for entry in journal.take_back(bound, 1)]
            assert taken == [each for each in reversed(held) if each >= bound]
            held = [each for each in held if each < bound]
        assert bool(journal) == bool(held)
        assert journal.last == (held[-1] if held else 0)
    journal.clear()
    assert not journal
