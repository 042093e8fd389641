"""The runners that have announced themselves: what they hold, whom they are for, which one is next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pie_wire.hub import Hub, Peer
from pie_wire.messages.common import Event
from pie_wire.messages.runner import Credit, Kill
from pie_wire.shares import Shares
from pie_wire.tenants import TenantTable

from pie_gateway.process import Process

REFUSAL_PAUSE = 0.5
"""Seconds a runner that said it is full is left alone."""
MESSAGE_BYTES = 64 << 20
"""Messages and files of clients that one runner has not taken yet: a quarter of what its link can owe."""
SLOW_BYTES = 64 << 20
"""Owed to a runner beyond which launches wait, whose inputs may be large: they must not cost it its link."""


@dataclass(eq=False)
class Runner:
    """One incarnation of a runner on one link."""

    peer: Peer
    capacity: int
    tenants: frozenset[str] = frozenset()
    """It is dedicated to these; none: it is for all."""
    processes: dict[str, Process] = field(default_factory=dict[str, Process])
    messages: Shares = field(default_factory=lambda: Shares(MESSAGE_BYTES))
    """Bytes of clients that it has not taken yet, by tenant."""
    lag_ms: float = 0.0
    full_until: float = 0.0

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def load(self) -> float:
        """Share of its capacity in use."""
        return len(self.processes) / self.capacity if self.capacity > 0 else 1.0


class RunnerPool:
    """Who runs what, and where the next goes.

    A runner at its capacity gets nothing. One that is dedicated to tenants gets only theirs, and they go there first;
    what it has no room for goes to runners for all, unless the table says that the tenant runs on its own only. Among
    equals the least loaded is next.
    """

    def __init__(self, hub: Hub, tenants: TenantTable) -> None:
        self._hub = hub
        self._tenants = tenants
        self._runners: dict[Peer, Runner] = {}

    def __iter__(self) -> Iterator[Runner]:
        return iter(list(self._runners.values()))

    def __len__(self) -> int:
        return len(self._runners)

    def get(self, peer: Peer) -> Runner | None:
        return self._runners.get(peer)

    def add(self, peer: Peer, capacity: int, tenants: Iterable[str] = ()) -> Runner:
        """A runner that has just announced itself. Doing so again on the same link keeps what it has."""
        runner = self._runners.setdefault(peer, Runner(peer, capacity))
        runner.capacity, runner.tenants = capacity, frozenset(tenants)
        return runner

    def remove(self, peer: Peer) -> list[Process]:
        """A runner that has gone. Returns what it had."""
        runner = self._runners.pop(peer, None)
        return list(runner.processes.values()) if runner else []

    def pick(self, tenant: str) -> Runner | None:
        """Where a tenant's next process goes; None while no runner that it may be on has room."""
        free = [r for r in self._runners.values() if self._has_room(r) and self._serves(r, tenant)]
        return min(free, key=lambda r: (not r.tenants, r.load, r.lag_ms, r.name), default=None)

    @property
    def is_full(self) -> bool:
        """No runner has room, for whomever."""
        return not any(self._has_room(r) for r in self._runners.values())

    def serves(self, tenant: str) -> bool:
        """Whether there is a runner that the tenant may be on, full or not."""
        return any(self._serves(r, tenant) for r in self._runners.values())

    def _has_room(self, runner: Runner) -> bool:
        is_free = len(runner.processes) < runner.capacity and self._hub.clock() >= runner.full_until
        return is_free and self._hub.owed(runner.peer) <= SLOW_BYTES

    def _serves(self, runner: Runner, tenant: str) -> bool:
        return tenant in runner.tenants if runner.tenants else not self._tenants.of(tenant).own_runner

    def refused(self, runner: Runner) -> None:
        """It has less room than it said."""
        runner.full_until = self._hub.clock() + REFUSAL_PAUSE

    def assign(self, process: Process, runner: Runner) -> None:
        process.runner = runner
        runner.processes[process.pid] = process

    def release(self, process: Process) -> None:
        """The process has ended."""
        if process.runner is not None:
            process.runner.processes.pop(process.pid, None)

    def kill(self, peer: Peer, pid: str, reason: str) -> None:
        self._hub.send(peer, Kill(pid, reason))

    def disown(self, peer: Peer, pid: str, events: Sequence[Event], reason: str) -> None:
        """End a process whose events nobody takes any more. The runner need not keep them: it would forever, and count
        them against everybody's output."""
        self.kill(peer, pid, reason)
        if events:
            last = events[-1].seq
            self._hub.send(peer, Credit([pid], [last], [last]))

    def credit(self, moved: Iterable[Process]) -> None:
        """Tell each runner how far the streams of its processes are durable and consumed."""
        columns: dict[Peer, list[tuple[str, int, int]]] = {}
        for process in moved:
            numbers = (process.record.last_seq, process.record.consumed)
            if process.runner is None or process.record.closed_here or numbers == process.credited:
                continue
            process.credited = numbers
            columns.setdefault(process.runner.peer, []).append((process.pid, *numbers))
        for peer, rows in columns.items():
            pids, durable, consumed = zip(*rows, strict=True)
            self._hub.send(peer, Credit(list(pids), list(durable), list(consumed)))
