"""Which processes a runner still has: when it announces itself, when it dies, and after a restart of the gateway."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pie_wire.errors import PieError, ProcessLost
from pie_wire.hub import Hub, Peer
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.gateway import Announce, Recovered, RunningProcess

from pie_gateway.config import GatewayConfig
from pie_gateway.control import ProcessControl
from pie_gateway.process import Process
from pie_gateway.runners import RunnerPool
from pie_gateway.streams import EventStreams
from pie_gateway.table import ProcessTable

log = structlog.get_logger("pie.gateway.recovery")


class Recovery:
    """Processes read from the log are *unclaimed* until their runner announces them, or they are given up."""

    def __init__(
        self,
        config: GatewayConfig,
        hub: Hub,
        table: ProcessTable,
        streams: EventStreams,
        runners: RunnerPool,
        control: ProcessControl,
    ) -> None:
        self._config = config
        self._hub = hub
        self._table = table
        self._streams = streams
        self._runners = runners
        self._control = control
        self._unclaimed = {p.pid: p for p in table if not p.record.ended}
        self._orphans = {pid: p for pid, p in self._unclaimed.items() if p.record.on_disconnect == "terminate"}
        """Processes that end with their client, which has not shown itself since the restart."""
        self._contact: float | None = None
        if self._unclaimed:
            log.info("recovered", processes=len(self._unclaimed))

    @property
    def unclaimed(self) -> int:
        return len(self._unclaimed)

    def contact(self) -> None:
        """A link to a service has come up: from now on the absence of others means something."""
        if self._contact is None:
            self._contact = self._hub.clock()

    def announce(self, peer: Peer, message: Announce) -> Recovered:
        """A runner says what it has. Its streams continue after the last durable event; what it should not have
        is killed; what it should have and does not is lost."""
        self.contact()
        runner = self._runners.add(peer, message.capacity, message.tenants)
        recovered = Recovered({}, {})
        for running in message.processes:
            process = self._table.get(running.pid)
            if process is None or not self._belongs(process, peer, running):
                self._runners.kill(peer, running.pid, "the gateway does not know this process, or has ended it")
                continue
            recovered.durable[running.pid] = process.record.last_seq
            recovered.consumed[running.pid] = process.record.consumed
            process.credited = (process.record.last_seq, process.record.consumed)
            if not process.record.ended:
                self._unclaimed.pop(running.pid, None)
                self._runners.assign(process, runner)
                if process.kill_reason:
                    self._runners.kill(peer, running.pid, process.kill_reason)
        announced = {p.pid for p in message.processes}
        gone = [p for p in self._unclaimed.values() if p.record.runner == peer.name and p.pid not in announced]
        self._lose(gone, f"runner {peer.name} no longer has it")
        return recovered

    def lost(self, peer: Peer, cause: PieError) -> None:
        """A runner has died."""
        self._lose(self._runners.remove(peer), f"runner {peer.name} died: {cause.message}")

    def members(self, members: Sequence[MemberInfo]) -> None:
        """The member list names a runner as lost, or another incarnation of it: what the old one had is gone."""
        runners = {m.name: m for m in members if m.kind == "runner"}
        gone: list[Process] = []
        for process in self._unclaimed.values():
            member = runners.get(process.record.runner)
            if member and (member.state == "lost" or member.incarnation != process.record.incarnation):
                gone.append(process)
        self._lose(gone, "its runner has gone")

    def tick(self) -> None:
        if self._contact is None or not (self._unclaimed or self._orphans):
            return
        waited = self._hub.clock() - self._contact
        if self._unclaimed and waited >= self._config.recovery_grace:
            self._lose(list(self._unclaimed.values()), "its runner has not come back")
        if self._orphans and waited >= self._config.reattach_grace:
            for process in self._orphans.values():
                if process.owner is None:
                    self._control.kill(process, "its client has not come back")
            self._orphans.clear()

    def _belongs(self, process: Process, peer: Peer, running: RunningProcess) -> bool:
        record = process.record
        return (
            record.incarnation == peer.identity.incarnation
            and not record.closed_here
            and (running.ended or not record.ended)
        )

    def _lose(self, processes: Sequence[Process], reason: str) -> None:
        for process in processes:
            self._unclaimed.pop(process.pid, None)
            self._streams.end(process, ProcessLost(f"process lost: {reason}; it was not run again"))
