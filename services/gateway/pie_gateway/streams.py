"""Event streams: from runners into the log, from the log to attached clients, and credit back to the runners.

runner --Events--> take: drop duplicates -> commit -> push to the attached client, as its window allows
client --AckEvents--> ack: window opens -> push more from the log
tick --Credit--> runner: durable and consumed numbers of all processes that moved

Nobody waits for credit while little is under way: it goes back a few times a second, and at once after much or an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog
from pie_wire.errors import BadField, InternalError, PieError
from pie_wire.messages.client import Replaced
from pie_wire.messages.common import TERMINAL_KINDS, Event

from pie_gateway.attachment import Attachment
from pie_gateway.config import GatewayConfig
from pie_gateway.deliveries import Deliveries
from pie_gateway.log import EventLog
from pie_gateway.process import Process
from pie_gateway.record import ProcessRecord
from pie_gateway.session import Session
from pie_gateway.table import ProcessTable

READ_EVENTS = 256
TRIM_TO = 0.9
CREDIT_EVERY = 0.25
"""Seconds between two credits, unless a stream has ended or HURRY_BYTES have come since."""
HURRY_BYTES = 1 << 20
HURRY_EVENTS = 8192
SAVE_EVERY = 1.0
"""Seconds until what clients have consumed is durable. A runner keeps it too, and a client says it again when it
attaches: a stale number only lets events be kept for longer."""

log = structlog.get_logger("pie.gateway.streams")


class EventStreams:
    """Keeps every stream dense, from number 1, with exactly one terminal event."""

    def __init__(
        self, config: GatewayConfig, table: ProcessTable, event_log: EventLog, wall: Callable[[], float]
    ) -> None:
        self._config = config
        self._table = table
        self._log = event_log
        self._wall = wall
        self._moved: dict[str, Process] = {}
        """Processes whose durable or consumed number has changed since the last tick."""
        self._unsaved: dict[str, Process] = {}
        """Processes of which more has been consumed than their durable record says."""
        self._hurry = 0
        """Weight of what has moved since the last credit, where HURRY_BYTES must not wait."""
        self._credit_at = 0.0
        self._save_at = 0.0
        self._deliveries = Deliveries()
        self._ended: list[Callable[[Process], None]] = []

    def on_end(self, callback: Callable[[Process], None]) -> None:
        """Called once per process, when its terminal event is durable."""
        self._ended.append(callback)

    # -- in

    def take(self, batch: Iterable[tuple[Process, Sequence[Event]]]) -> None:
        """Events of live processes, as their runner numbered them; those already here are dropped. Durable on return.

        A stream with a hole is ended with an error: its runner has lost an event.
        """
        fresh: list[tuple[Process, list[Event]]] = []
        rows: list[tuple[str, Event]] = []
        records: list[ProcessRecord] = []
        for process, events in batch:
            state = process.record.state
            kept = self._fresh(process.record, events)
            if kept:
                fresh.append((process, kept))
                rows.extend((process.pid, event) for event in kept)
                if process.record.state != state:
                    records.append(process.record)  # otherwise it follows from the events
                self._hurry += HURRY_BYTES if process.record.ended else sum(event.size for event in kept)
        if not rows:
            return
        self._log.commit(records, rows)
        for process, kept in fresh:
            self._moved[process.pid] = process
            self._show(process, kept)
        self._deliveries.flush()
        for process, _ in fresh:
            if process.record.ended:
                self._close(process)
            elif process.record.kept_bytes > self._config.log_process_bytes:
                self._trim(process)

    def end(self, process: Process, error: PieError) -> None:
        """Write the terminal event here, because the runner cannot, unless the stream has one."""
        if process.record.ended:
            return
        process.record.closed_here = True
        self.take([(process, [Event(process.record.last_seq + 1, "error", error=error.info())])])

    def _fresh(self, record: ProcessRecord, events: Sequence[Event]) -> list[Event]:
        fresh: list[Event] = []
        for given in events:
            event = given
            if record.ended or event.seq <= record.last_seq:
                continue
            if event.seq != record.last_seq + 1:
                log.error("events lost", pid=record.pid, expected=record.last_seq + 1, got=event.seq)
                lost = InternalError(f"events from number {record.last_seq + 1} to {event.seq - 1} were lost")
                record.closed_here = True
                event = Event(record.last_seq + 1, "error", error=lost.info())
            record.last_seq = event.seq
            record.kept_bytes += event.size
            self._table.kept(event.size)
            if event.kind in TERMINAL_KINDS:
                record.state = "returned" if event.kind == "return" else "failed"
                record.error = event.error
                record.ended_at = self._wall()
            elif record.state == "starting":
                record.state = "running"
            fresh.append(event)
        return fresh

    def _close(self, process: Process) -> None:
        self._table.ended(process)
        for callback in self._ended:
            callback(process)
        waiting, process.on_end = process.on_end, []
        for answer in waiting:
            answer()

    def _trim(self, process: Process) -> None:
        record = process.record
        excess = record.kept_bytes - int(self._config.log_process_bytes * TRIM_TO)
        self._table.kept(-self._log.trim(record, record.consumed, excess))

    # -- out

    def attach(self, process: Process, session: Session, start: int) -> None:
        """Let this session, and no other, have the events from number `start` on. Call `resume` after the reply.

        Raises:
            BadField: there is no such number yet, and it is not the next one.
        """
        last = process.record.last_seq
        if not 1 <= start <= last + 1:
            raise BadField(f"cannot attach to process {process.pid} from event {start}: it has events 1 to {last}")
        previous = process.attachment
        if previous is not None and previous.session is not session:
            previous.session.push(Replaced(process.pid))
        if process.owner is not None:
            process.owner.owned.discard(process.pid)
        process.owner = session
        session.owned.add(process.pid)
        process.attachment = Attachment(session, process.pid, start, self._deliveries)

    def detach(self, process: Process, session: Session) -> None:
        if process.attachment is not None and process.attachment.session is session:
            process.attachment = None

    def ack(self, session: Session, consumed: Iterable[tuple[Process, int]]) -> None:
        """The client has consumed everything of each process up to the number beside it."""
        for process, seq in consumed:
            self._ack(process, session, seq)
        self._deliveries.flush()

    def _ack(self, process: Process, session: Session, seq: int) -> None:
        record = process.record
        seq = min(seq, record.last_seq)
        if seq > record.consumed:
            self._hurry += (seq - record.consumed) * (HURRY_BYTES // HURRY_EVENTS)
            record.consumed = seq
            self._moved[process.pid] = self._unsaved[process.pid] = process
        if process.attachment is not None and process.attachment.session is session:
            process.attachment.ack(seq)
            self._fill(process)

    def resume(self, process: Process) -> None:
        """Push from the log as far as the window allows."""
        self._fill(process)
        self._deliveries.flush()

    def _fill(self, process: Process) -> None:
        to, record = process.attachment, process.record
        while to is not None and to.is_open and to.next_seq <= record.last_seq:
            if to.next_seq < record.first_seq:
                missing = record.first_seq - to.next_seq
                to.push([Event(record.first_seq - 1, "gap", str(missing))])
                continue
            count = min(READ_EVENTS, to.room_events)
            events = self._log.read(process.pid, to.next_seq, events=count, size=to.room_bytes)
            if not events:
                raise InternalError(f"event {to.next_seq} of process {process.pid} is not in the log")
            to.push(events)

    def _show(self, process: Process, fresh: Sequence[Event]) -> None:
        to = process.attachment
        if to is not None and to.next_seq == fresh[0].seq:
            fitting = to.fitting(fresh)
            if fitting:
                to.push(fitting)

    # -- back

    def tick(self, now: float) -> list[Process]:
        """Make acknowledgements durable, now and then. Returns the processes that are due for credit: those whose
        numbers have moved since they last were."""
        if self._unsaved and now >= self._save_at:
            self._save_at = now + SAVE_EVERY
            unsaved = [p.record for p in self._unsaved.values() if self._table.get(p.pid) is p]
            self._unsaved.clear()
            if unsaved:
                self._log.commit(unsaved)
        if not self._moved or (now < self._credit_at and self._hurry < HURRY_BYTES):
            return []
        self._credit_at, self._hurry = now + CREDIT_EVERY, 0
        moved = list(self._moved.values())
        self._moved.clear()
        return moved
