"""The process table: live and recently ended processes, their expiry, and the limits of the event log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pie_wire.errors import Gone, NotFound
from pie_wire.hub import Scope

from pie_gateway.config import GatewayConfig
from pie_gateway.log import EventLog
from pie_gateway.process import Process
from pie_gateway.record import ProcessRecord

PURGE_EVERY = 60.0

T = TypeVar("T")


class ProcessTable:
    """Owns the `Process` objects. `wall` gives Unix seconds."""

    def __init__(self, config: GatewayConfig, log: EventLog, wall: Callable[[], float]) -> None:
        self._config = config
        self._log = log
        self._wall = wall
        self._processes: dict[str, Process] = {}
        self._ended: dict[str, None] = {}
        """Pids of ended processes, in the order of their ends."""
        self._live: dict[str, int] = {}
        """Processes that have not ended, by tenant."""
        self._purge_at = 0.0
        self._kept_bytes = 0
        records = log.load()
        for record in records:
            self._processes[record.pid] = Process(record)
            self._kept_bytes += record.kept_bytes
            if not record.ended:
                self._count(record.tenant, 1)
        for record in sorted((r for r in records if r.ended), key=lambda r: r.ended_at):
            self._ended[record.pid] = None

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._processes.values()))

    @property
    def live_count(self) -> int:
        return len(self._processes) - len(self._ended)

    def live_of(self, tenant: str) -> int:
        """Processes of a tenant that have not ended."""
        return self._live.get(tenant, 0)

    def get(self, pid: str) -> Process | None:
        return self._processes.get(pid)

    def find(self, pid: str, scope: Scope) -> Process:
        """A process of this user.

        Raises:
            Gone: it ended so long ago that its events have been dropped. NotFound: there was none.
        """
        process = self._processes.get(pid)
        record = process.record if process else self._log.find(pid)
        if record is None or (record.tenant, record.user) != (scope.tenant, scope.user):
            raise NotFound(f"no process {pid}: list them with `pie ps --all`")
        if process is None:
            raise Gone(f"process {pid} ended and its events are no longer kept")
        return process

    def expired(self, pid: str) -> ProcessRecord | None:
        """The record of an id that was used in the past and is no longer in the table."""
        return None if pid in self._processes else self._log.find(pid)

    def add(self, record: ProcessRecord) -> Process:
        """A new process, durable when this returns."""
        self._log.commit([record])
        process = self._processes[record.pid] = Process(record)
        self._count(record.tenant, 1)
        return process

    def forget(self, process: Process) -> None:
        """Undo `add`: nothing was executed."""
        self._log.forget(process.pid)
        del self._processes[process.pid]
        self._count(process.record.tenant, -1)

    def ended(self, process: Process) -> None:
        if process.pid not in self._ended:
            self._ended[process.pid] = None
            self._count(process.record.tenant, -1)

    def kept(self, size: int) -> None:
        """The log has grown by `size` bytes (or shrunk)."""
        self._kept_bytes += size

    def tick(self) -> None:
        """Expire what is too old, too many or too large; at most a few per call, so that no call is long."""
        now = self._wall()
        for pid in list(self._first_ended(8)):
            record = self._processes[pid].record
            if (
                now - record.ended_at >= self._config.keep_ended
                or len(self._ended) > self._config.keep_ended_count
                or self._kept_bytes > self._config.log_total_bytes
            ):
                self._expire(pid, record)
        if now >= self._purge_at:
            self._purge_at = now + PURGE_EVERY
            self._log.purge(now - self._config.keep_ids)

    def _count(self, tenant: str, change: int) -> None:
        live = self._live.get(tenant, 0) + change
        if live:
            self._live[tenant] = live
        else:
            del self._live[tenant]

    def _first_ended(self, count: int) -> Iterator[str]:
        for pid, _ in zip(self._ended, range(count), strict=False):
            yield pid

    def _expire(self, pid: str, record: ProcessRecord) -> None:
        self._log.expire(record)
        self._kept_bytes -= record.kept_bytes
        del self._ended[pid]
        del self._processes[pid]
