"""The durable process index in kvstore, fed in batches and caught up after an outage."""

from __future__ import annotations

from collections.abc import Callable

from pie_wire.errors import PieError
from pie_wire.messages.base import Done
from pie_wire.messages.common import ProcessInfo
from pie_wire.messages.kvstore import PutProcesses

from pie_gateway.process import Process
from pie_gateway.store import Store
from pie_gateway.table import ProcessTable

EVERY = 0.5
NUMBERS_EVERY = 5.0
"""Seconds for which a row may have old numbers; its state is told at once."""
RETRY = 1.0
ROWS = 256


class ProcessIndex:
    """Holds what has changed, by pid: never more than the process table has."""

    def __init__(self, table: ProcessTable, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._changed: dict[str, ProcessInfo] = {p.pid: p.record.info() for p in table}
        self._moved: dict[str, Process] = {}
        self._running: set[str] = set()
        """Pids whose row says so."""
        self._numbers_at = 0.0
        self._asking = False
        self._next = 0.0

    def changed(self, process: Process) -> None:
        """Its state is another one."""
        self._moved.pop(process.pid, None)
        self._changed[process.pid] = process.record.info()
        if process.record.state == "running":
            self._running.add(process.pid)
        else:
            self._running.discard(process.pid)

    def moved(self, process: Process) -> None:
        """It has more events, or more of them were consumed."""
        if process.record.state == "running" and process.pid in self._running:
            self._moved[process.pid] = process
        else:
            self.changed(process)

    def tick(self) -> None:
        now = self._clock()
        if self._moved and now >= self._numbers_at:
            self._numbers_at = now + NUMBERS_EVERY
            moved, self._moved = self._moved, {}
            self._changed.update({pid: process.record.info() for pid, process in moved.items()})
        if not self._changed or self._asking or now < self._next or not self._store.is_up:
            return
        pids = [pid for pid, _ in zip(self._changed, range(ROWS), strict=False)]
        rows = [self._changed.pop(pid) for pid in pids]
        self._asking, self._next = True, now + EVERY

        def done(reply: Done) -> None:
            self._asking = False

        def failed(error: PieError) -> None:
            self._asking, self._next = False, self._clock() + RETRY
            for row in rows:
                self._changed.setdefault(row.pid, row)  # a newer row wins

        self._store.ask(PutProcesses(rows), done, failed)
