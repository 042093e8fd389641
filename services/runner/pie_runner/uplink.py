"""The runner's side of its link to the gateway: announce, push events, take credit.

On each new link the runner announces what it holds; the gateway answers with what it has durably, and everything after
that is sent again. Until then nothing is pushed. Processes that the gateway does not know are ended: nobody could ever
read them.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from pie_wire.errors import Terminated
from pie_wire.hub import Answer, Hub, Peer
from pie_wire.messages.common import Event
from pie_wire.messages.gateway import Announce, Events, Recovered, RunnerLoad, RunningProcess
from pie_wire.messages.runner import Credit

from pie_runner.process import Process

PORT = "gateway"
ANNOUNCE_TIMEOUT = 10.0
RETRY_AFTER = 1.0
EVENT_PAUSE = 0.002
"""Seconds between two pushes: what comes up meanwhile travels together."""
BUSY_PAUSE = 0.025
"""What the first event of a message waits at most while more programs are ready to run, which are about to add
something: a step of the engine wakes many at once."""
MESSAGE_BYTES = 1 << 20
FAIR_SHARE = 256 << 10
"""Bytes of one process in one message."""
IN_FLIGHT_BYTES = 64 << 20
"""Pushed and not yet durable, over all processes: beyond it events wait here, where they are counted."""

log = structlog.get_logger("pie.uplink")


class Uplink:
    """Owns the order of pushes; the processes own their events."""

    def __init__(
        self,
        hub: Hub,
        processes: dict[str, Process],
        capacity: int,
        tenants: frozenset[str],
        forget: Callable[[Process], None],
        recovered: Callable[[], None],
    ) -> None:
        """`tenants` are those that the runner is dedicated to. `recovered` is called when the gateway knows the
        processes again, before their events are pushed."""
        self._hub = hub
        self._processes = processes
        self._capacity = capacity
        self._tenants = sorted(tenants)
        self._forget = forget
        self._on_recovered = recovered
        self._peer: Peer | None = None
        self._recovered = False
        self._dirty: dict[str, Process] = {}
        self._in_flight = 0
        self._last_push = 0.0
        self._waiting_since: float | None = None
        """When the end of a loop turn first met the events that wait now."""
        self._announced: set[str] = set()
        self._announce_at: float | None = None
        """When to announce again, after the gateway refused."""

    @property
    def peer(self) -> Peer | None:
        """The gateway, while it knows our processes."""
        return self._peer if self._recovered else None

    @property
    def connected(self) -> bool:
        """The gateway knows our processes."""
        return self._recovered

    def up(self, peer: Peer) -> None:
        """A new session with a gateway."""
        self._peer = peer
        self._recovered = False
        self._announce(peer)

    def tick(self, now: float) -> None:
        """Announce again when due."""
        if self._announce_at is not None and now >= self._announce_at and self._peer is not None:
            self._announce(self._peer)

    def down(self, peer: Peer) -> None:
        """The gateway is away: processes go on and keep their events."""
        if self._peer is peer:
            self._peer = None
            self._recovered = False

    def written(self, process: Process) -> None:
        """A process has new events."""
        self._dirty[process.pid] = process

    def drop(self, process: Process) -> None:
        """A process is forgotten."""
        self._dirty.pop(process.pid, None)

    def credit(self, message: Credit) -> None:
        """Progress of event logs."""
        for pid, durable, consumed in zip(message.pids, message.durable, message.consumed, strict=True):
            process = self._processes.get(pid)
            if process is not None:
                self._credit(process, durable, consumed)

    def load(self, live: int, lag_ms: float) -> None:
        """Report the load."""
        if self._peer is not None and self._recovered:
            self._hub.send(self._peer, RunnerLoad(live, self._capacity, lag_ms))

    def due_at(self) -> float | None:
        """When `flush` has something to push."""
        return self._last_push + EVENT_PAUSE if self._dirty and self._recovered and not self._is_stopped else None

    def flush(self, now: float, *, busy: bool = False) -> None:
        """End of a loop turn: push what is there, if the pause is over. `busy`: more programs are ready to run."""
        if not self._dirty or not self._recovered or self._is_stopped:
            return
        if self._waiting_since is None:
            self._waiting_since = now
        if now < (self._waiting_since + BUSY_PAUSE if busy else self._last_push + EVENT_PAUSE):
            return
        while self._push():
            pass
        self._last_push, self._waiting_since = now, None

    @property
    def _is_stopped(self) -> bool:
        return self._in_flight >= IN_FLIGHT_BYTES

    def _push(self) -> bool:
        """One message. True if it was full, and another one should follow at once."""
        if self._peer is None:
            return False
        pids: list[str] = []
        counts: list[int] = []
        events: list[Event] = []
        size = 0
        for pid, process in list(self._dirty.items()):
            taken = process.events.unsent(min(FAIR_SHARE, MESSAGE_BYTES - size))
            if taken:
                pids.append(pid)
                counts.append(len(taken))
                events.extend(taken)
                size += sum(event.size for event in taken)
            del self._dirty[pid]
            if process.events.has_unsent:
                self._dirty[pid] = process
            if size >= MESSAGE_BYTES:
                break
        if not events:
            return False
        self._in_flight += size
        self._hub.send(self._peer, Events(pids, counts, events))
        return bool(self._dirty) and not self._is_stopped

    def _announce(self, peer: Peer) -> None:
        held = [
            RunningProcess(p.pid, p.events.first_kept, p.events.last_seq, p.state == "ended")
            for p in self._processes.values()
        ]
        self._announced = {p.pid for p in held}
        self._announce_at = None

        def answered(answer: Answer[Recovered]) -> None:
            if self._peer is not peer:
                return
            if answer.error is not None:
                log.warning("the gateway does not take the announcement", reason=answer.error.message)
                self._announce_at = self._hub.clock() + RETRY_AFTER
                return
            self._recover(answer.value())

        self._hub.request(peer, Announce(self._capacity, held, self._tenants), answered, timeout=ANNOUNCE_TIMEOUT)

    def _recover(self, recovered: Recovered) -> None:
        self._recovered = True
        self._in_flight = 0
        for pid in self._announced:
            process = self._processes.get(pid)
            if process is None:
                continue
            durable = recovered.durable.get(pid)
            if durable is None:
                log.warning("the gateway does not know a process: ending it", pid=pid)
                process.kill(Terminated("the gateway has no record of this process"))
                self._forget(process)
                continue
            process.events.sent = min(durable, process.events.last_seq)
            self._credit(process, durable, recovered.consumed.get(pid, 0))
            if process.pid in self._processes and process.events.has_unsent:
                self._dirty[pid] = process
        self._on_recovered()

    def _credit(self, process: Process, durable: int, consumed: int) -> None:
        freed = process.credit(durable, consumed)
        self._in_flight = max(0, self._in_flight - freed)
        if process.events.is_settled:
            self._forget(process)
