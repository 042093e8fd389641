"""What clients do with running processes: attach, detach, acknowledge, signal, terminate, list."""

from __future__ import annotations

from collections import Counter

from pie_wire.errors import BadField, Gone, Overloaded, PieError, Terminated, TooLarge, Unavailable
from pie_wire.file_names import file_name
from pie_wire.hub import Answer, Hub
from pie_wire.messages.base import Done
from pie_wire.messages.common import MAX_EVENT_BYTES
from pie_wire.messages.gateway import (
    AckEvents,
    Attach,
    Attached,
    Detach,
    ListProcesses,
    Processes,
    SendFile,
    Signal,
    Terminate,
)
from pie_wire.messages.runner import Deliver, DeliverFile

from pie_gateway.config import GatewayConfig
from pie_gateway.launcher import PID, Launcher
from pie_gateway.process import Process
from pie_gateway.runners import RunnerPool
from pie_gateway.session import Call, Session
from pie_gateway.streams import EventStreams
from pie_gateway.table import ProcessTable

DELIVER_TIMEOUT = 10.0
MAX_UNDELIVERED = 256
"""Messages of clients to one process that its runner has not taken yet."""
MAX_UNDELIVERED_BYTES = 8 << 20
"""Of these: as much as the process's mailbox holds."""


class ProcessControl:
    def __init__(
        self,
        config: GatewayConfig,
        hub: Hub,
        table: ProcessTable,
        streams: EventStreams,
        runners: RunnerPool,
        launcher: Launcher,
    ) -> None:
        self._config = config
        self._hub = hub
        self._table = table
        self._streams = streams
        self._runners = runners
        self._launcher = launcher
        self._ending: dict[str, Process] = {}
        """Processes whose runner has been told to end them."""
        self._undelivered: Counter[str] = Counter()
        """Messages of clients, by process."""
        self._undelivered_bytes: Counter[str] = Counter()
        streams.on_end(self._ended)

    def attach(self, call: Call[Attach]) -> None:
        process = self._table.find(call.message.pid, call.scope)
        self._streams.attach(process, call.session, call.message.start)
        call.reply(Attached(process.record.info()))
        self._streams.resume(process)

    def detach(self, call: Call[Detach]) -> None:
        self._streams.detach(self._table.find(call.message.pid, call.scope), call.session)
        call.reply(Done())

    def ack(self, call: Call[AckEvents]) -> None:
        pids, seqs = call.message.pids, call.message.seqs
        if len(pids) != len(seqs):
            raise BadField("gw.ack-events: a number is missing, or a process")
        owner = (call.scope.tenant, call.scope.user)
        consumed: list[tuple[Process, int]] = []
        for pid, seq in zip(pids, seqs, strict=True):
            process = self._table.get(pid)  # an ack may arrive after the events have expired
            if process is not None and (process.record.tenant, process.record.user) == owner:
                consumed.append((process, seq))
        self._streams.ack(call.session, consumed)

    def signal(self, call: Call[Signal]) -> None:
        """Hand a message to the process's runner; answered when the runner has it.

        Raises:
            TooLarge, BadField, Gone: the process has ended. Unavailable: its runner is not there now. Overloaded: too
            many messages are on their way to it.
        """
        message = call.message
        size = len(message.text.encode()) + sum(len(b) for b in call.buffers)
        if size > MAX_EVENT_BYTES:
            raise TooLarge(f"a message of {size} bytes exceeds {MAX_EVENT_BYTES}: split it")
        if message.binary != bool(call.buffers):
            raise BadField("a binary message needs exactly one buffer, a text message none")
        self._hand_on(call, Deliver(message.pid, message.text, message.binary), size)

    def send_file(self, call: Call[SendFile]) -> None:
        """Hand a part of a file to the process's runner; answered when the runner has it. Raises as `signal`."""
        message = call.message
        file_name(message.name)
        if not PID.fullmatch(message.file):
            raise BadField(f"file is {message.file[:80]!r}, expected 32 lower-case hex digits")
        if len(call.buffers) != 1 or len(call.buffers[0]) > MAX_EVENT_BYTES:
            raise BadField(f"a part of a file is one buffer of at most {MAX_EVENT_BYTES} bytes")
        delivery = DeliverFile(message.pid, message.file, message.name, message.size, message.offset)
        self._hand_on(call, delivery, len(call.buffers[0]))

    def _hand_on(self, call: Call[Signal] | Call[SendFile], delivery: Deliver | DeliverFile, size: int) -> None:
        message = call.message
        process = self._table.find(message.pid, call.scope)
        if process.record.ended:
            raise Gone(f"process {message.pid} has ended")
        if process.runner is None:
            raise Unavailable(f"the runner of process {message.pid} is not there now: try again")
        pid, tenant, runner = message.pid, call.scope.tenant, process.runner
        waiting = self._undelivered[pid], self._undelivered_bytes[pid] + size
        if waiting[0] >= MAX_UNDELIVERED or waiting[1] > MAX_UNDELIVERED_BYTES:
            raise Overloaded(
                f"the queue to process {pid} is full, {MAX_UNDELIVERED} messages or {MAX_UNDELIVERED_BYTES >> 20} MiB "
                "that its runner has not taken yet: send slower"
            )
        if not runner.messages.take(tenant, size):
            raise Overloaded(
                f"the queue to runner {runner.name} is full for tenant {tenant}, with "
                f"{runner.messages.of(tenant) >> 20} MiB that the runner has not taken yet: send slower"
            )

        def taken() -> None:
            runner.messages.give_back(tenant, size)
            self._undelivered[pid] -= 1
            self._undelivered_bytes[pid] -= size
            if not self._undelivered[pid]:
                del self._undelivered[pid], self._undelivered_bytes[pid]

        def delivered(answer: Answer[Done]) -> None:
            taken()
            if answer.error is None:
                call.reply(Done())
            else:
                call.fail(answer.error)

        self._undelivered[pid] += 1
        self._undelivered_bytes[pid] += size
        try:
            self._hub.request(
                runner.peer, delivery, delivered, timeout=DELIVER_TIMEOUT, buffers=call.buffers, scope=call.scope
            )
        except PieError:  # nothing was sent
            taken()
            raise

    def terminate(self, call: Call[Terminate]) -> None:
        """End a process; answered when its terminal event is durable."""
        message = call.message
        if self._launcher.cancel(message.pid, call.scope, Terminated(message.reason)):
            call.reply(Done())
            return
        process = self._table.find(message.pid, call.scope)
        if process.record.ended:
            call.reply(Done())
            return
        process.on_end.append(lambda: call.reply(Done()))
        self.kill(process, message.reason)

    def kill(self, process: Process, reason: str) -> None:
        """Have a process ended by its runner, or here if the runner does not do it in time."""
        if process.record.ended or process.kill_reason:
            return
        process.kill_reason = reason
        process.kill_deadline = self._hub.clock() + self._config.kill_timeout
        self._ending[process.pid] = process
        if process.runner is not None:
            self._runners.kill(process.runner.peer, process.pid, reason)

    def list_processes(self, call: Call[ListProcesses]) -> None:
        mine = (call.scope.tenant, call.scope.user)
        call.reply(
            Processes(
                [
                    p.record.info()
                    for p in self._table
                    if (p.record.tenant, p.record.user) == mine and (call.message.ended or not p.record.ended)
                ]
            )
        )

    def forget(self, session: Session, cause: PieError) -> None:
        """The session has gone: processes that asked for it end with it, the others go on unattended."""
        for pid in list(session.owned):
            process = self._table.get(pid)
            if process is None or process.owner is not session:
                continue
            process.owner = None
            self._streams.detach(process, session)
            if process.record.on_disconnect == "terminate":
                self.kill(process, f"its client has gone: {cause.message}")
        session.owned.clear()

    def _ended(self, process: Process) -> None:
        self._ending.pop(process.pid, None)

    def tick(self) -> None:
        now = self._hub.clock()
        for process in list(self._ending.values()):
            if self._table.get(process.pid) is not process:
                del self._ending[process.pid]
            elif now >= process.kill_deadline:
                # the runner is told again when it next mentions the process
                self._streams.end(process, Terminated(process.kill_reason))
