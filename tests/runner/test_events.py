"""Numbering, the unacknowledged limit, and sending again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_runner.events import EventLog
from pie_wire.errors import ErrorInfo, InternalError


def test_numbers_are_dense_and_nothing_follows_the_end():
    log = EventLog()
    log.add("started")
    log.add("return", "1")

    assert [event.seq for event in log.unsent(1 << 20)] == [1, 2]
    assert log.ended
    with pytest.raises(InternalError):
        log.add("message", "late")


def test_the_limit_counts_what_is_not_consumed():
    log = EventLog(max_events=3)
    for _ in range(3):
        log.add("message", "x")
    assert log.is_full

    log.credit(durable=3, consumed=0)
    assert log.is_full  # durable alone makes no room

    log.credit(durable=3, consumed=1)
    assert not log.is_full


def test_the_limit_counts_bytes():
    log = EventLog(max_bytes=1000)
    log.add("message", "x" * 2000)
    assert log.is_full

    log.credit(1, 1)
    assert not log.is_full


def test_bytes_are_those_of_utf8():
    log = EventLog(max_bytes=1000)
    log.add("message", "€" * 400)
    assert log.is_full

    assert log.credit(1, 1) == log.add("message", "x" * 1200).size
    log.credit(2, 2)
    log.add("error", error=ErrorInfo("trapped", "€" * 400))

    assert log.is_full


def test_dropped_events_become_one_gap():
    log = EventLog(max_events=1)
    log.add("message", "a")
    log.drop()
    log.drop()
    assert not log.flush_gap()

    log.credit(1, 1)
    assert log.flush_gap()
    assert [(e.seq, e.kind, e.text) for e in log.unsent(1 << 20)] == [(2, "gap", "2")]


def test_a_terminal_event_comes_after_the_gap_even_when_full():
    log = EventLog(max_events=1)
    log.add("message", "a")
    log.drop()
    log.add("return", "null")

    assert [(e.seq, e.kind) for e in log.unsent(1 << 20)] == [(1, "message"), (2, "gap"), (3, "return")]


def test_consumed_never_passes_durable_and_nothing_goes_back():
    log = EventLog()
    for _ in range(5):
        log.add("message")
    log.credit(durable=2, consumed=5)
    assert (log.durable, log.consumed) == (2, 2)

    log.credit(durable=1, consumed=0)
    assert (log.durable, log.consumed) == (2, 2)
    assert log.first_kept == 3


@given(st.lists(st.one_of(st.tuples(st.just("add")), st.tuples(st.just("send"), st.integers(1, 200)),
       st.tuples(st.just("store"), st.integers(0, 5)), st.tuples(st.just("reconnect"))), max_size=60))  # fmt: skip
def test_a_gateway_that_restarts_gets_every_event_once(steps):
    log = EventLog()
    stored: list[int] = []
    wire: list[int] = []

    def store(count: int) -> None:
        for seq in wire[:count]:
            if seq == len(stored) + 1:
                stored.append(seq)
        del wire[:count]
        log.credit(len(stored), len(stored))

    for step in steps:
        match step:
            case ("add",):
                log.add("message", "x" * 20)
            case ("send", limit):
                wire += [event.seq for event in log.unsent(limit)]
            case ("store", count):
                store(count)
            case ("reconnect",):
                wire.clear()
                log.sent = log.durable
    wire.clear()
    log.sent = log.durable
    wire += [event.seq for event in log.unsent(1 << 30)]
    store(len(wire))

    assert stored == list(range(1, log.last_seq + 1))
    assert log.unacked == 0
