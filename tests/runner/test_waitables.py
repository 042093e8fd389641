"""Parking on several things at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pie_runner.host.futures import wait_any
from pie_runner.waitables import MAX_WAITABLES, Completion, Waitables
from pie_runner.wasm.hostcall import Err, Ok
from pie_wire.errors import OutOfMemory, TooLarge


@pytest.fixture
def fiber():
    woken = []
    return SimpleNamespace(wake=lambda: woken.append(True), woken=woken)


def test_ready_ones_answer_at_once_in_the_order_asked(fiber):
    table = Waitables()
    first, second = Completion(table), Completion(table)
    second.complete()
    first.complete()

    assert table.wait(fiber, [second.id, first.id]) == [second.id, first.id]
    assert fiber.woken == []


def test_the_first_to_become_ready_wakes(fiber):
    table = Waitables()
    first, second = Completion(table), Completion(table)
    pending = table.wait(fiber, [first.id, second.id])

    second.complete()
    first.complete()

    assert pending.result == [second.id]
    assert fiber.woken == [True]


def test_others_do_not_wake(fiber):
    table = Waitables()
    first, second = Completion(table), Completion(table)
    pending = table.wait(fiber, [first.id])

    second.complete()

    assert not pending.done


def test_an_unknown_id_counts_as_ready(fiber):
    assert Waitables().wait(fiber, [77]) == [77]


def test_an_abandoned_wait_is_forgotten(fiber):
    table = Waitables()
    done = Completion(table)
    pending = table.wait(fiber, [done.id])
    pending.abandon()

    done.complete()

    assert fiber.woken == []


def test_a_completion_keeps_its_first_answer():
    table = Waitables()
    good, bad = Completion(table), Completion(table)
    good.complete()
    good.complete(OutOfMemory("later"))
    bad.complete(OutOfMemory("first"))

    assert good.get() == Ok(None)
    answer = bad.get()
    assert isinstance(answer, Err)
    assert answer.error.code == "out_of_memory"


def test_closing_cancels_what_it_stands_for_once_and_only_before_completion():
    table = Waitables()
    cancelled: list[str] = []
    open_one = Completion(table, lambda: cancelled.append("open"))
    complete = Completion(table, lambda: cancelled.append("complete"))
    complete.complete()

    open_one.close()
    open_one.close()
    complete.close()

    assert cancelled == ["open"]
    assert len(table) == 0


def test_many_at_once(fiber):
    table = Waitables()
    many = [Completion(table) for _ in range(1000)]
    pending = table.wait(fiber, [done.id for done in reversed(many)])

    Completion(table).complete()
    assert not pending.done
    many[7].complete()

    assert pending.result == [many[7].id]


def test_more_ids_than_there_can_be(fiber):
    with pytest.raises(TooLarge):
        wait_any(fiber, [1] * (MAX_WAITABLES + 1))
