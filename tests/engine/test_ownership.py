"""Ownership rows: net changes, full after a loss, and equal to the engine's table."""

from __future__ import annotations

import random

import pytest
from pie_wire.errors import PeerLost
from pie_wire.hub import Hub, Incoming
from pie_wire.messages import engine as wire
from pie_wire.messages.base import Done
from pie_wire.messages.common import PageRow
from pie_wire.messages.kvstore import PutPages
from pie_wire.messages.link import Identity


class Store:
    """kvstore's side: applies reports to a table."""

    def __init__(self, bench) -> None:
        self.bench = bench
        self.hub = Hub(Identity("kvstore", "kv", 1), lambda: bench.now, rng=random.Random(3))
        self.hub.listen("members")
        self.hub.on(PutPages, self._put)
        self.reports: list[PutPages] = []
        self.rows: dict[tuple[str, int, int], PageRow] = {}
        self.refuse = False
        bench.hub.dial("kvstore")
        self.exchange()

    def exchange(self) -> None:
        """Half a second passes; the engine reports."""
        for _ in range(12):
            self.bench.now += 0.05
            self.bench.core.tick()
            self.bench.hub.tick()
            for out in self.bench.hub.outgoing():
                if out.port == "kvstore":
                    self.hub.receive("members", b"e", out.frames)
            self.hub.tick()
            for out in self.hub.outgoing():
                self.bench.hub.receive("kvstore", b"", out.frames)

    def _put(self, incoming: Incoming[PutPages]) -> Done:
        if self.refuse:
            raise PeerLost("no Redis now")
        report = incoming.message
        self.reports.append(report)
        if report.full:
            self.rows.clear()
        for name, epoch, context in report.dropped:
            self.rows.pop((name, epoch, context), None)
        for row in report.rows:
            self.rows[row.runner, row.epoch, row.context] = row
        return Done()

    @property
    def agrees(self) -> bool:
        mine = {(r.runner, r.epoch, r.context): r for r in self.bench.core.page_rows()}
        return mine == self.rows


@pytest.fixture
def store(bench) -> Store:
    return Store(bench)


def test_rows_follow_the_table(bench, store):
    parent = bench.create(list(range(20)))
    bench.send(wire.Flush(parent, 0), wire.Fork(9, parent, 0, 20, "child"))
    bench.settle()
    store.exchange()
    assert store.agrees
    child = store.rows["r0", 1, 9]
    assert (child.process, child.parent, child.shared, child.tokens, child.pages) == ("child", parent, 19, 20, 5)
    assert child.tip
    bench.send(wire.Drop(parent))
    bench.settle()
    store.exchange()
    assert store.agrees
    assert store.rows["r0", 1, 9].shared == 0


def test_quiet_engine_reports_nothing(bench, store):
    bench.create(list(range(5)))
    bench.settle()
    store.exchange()
    count = len(store.reports)
    store.exchange()
    store.exchange()
    assert len(store.reports) == count


def test_lost_report_is_made_good_in_full(bench, store):
    bench.create(list(range(5)))
    bench.settle()
    store.refuse = True
    store.exchange()
    store.refuse = False
    store.exchange()
    assert store.reports[-1].full
    assert store.agrees


def test_rows_of_a_dead_runner_disappear(bench, store):
    bench.create(list(range(5)))
    bench.settle()
    store.exchange()
    assert len(store.rows) == 1
    bench.remove_runner(bench.runner)
    bench.step()
    store.exchange()
    assert store.rows == {}


def test_more_rows_than_one_report_takes_follow_in_the_next(bench, store, monkeypatch):
    monkeypatch.setattr("pie_engine.memory.ownership.MAX_ROWS", 3)
    contexts = [bench.create([1]) for _ in range(8)]
    bench.settle()
    for _ in range(3):
        store.exchange()
    assert store.agrees
    assert max(len(report.rows) for report in store.reports) == 3
    bench.send(*(wire.Drop(context) for context in contexts[:5]))
    bench.settle()
    for _ in range(2):
        store.exchange()
    assert store.agrees
    assert max(len(report.dropped) for report in store.reports) == 3
