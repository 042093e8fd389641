"""Events on their way to clients: those of many processes in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pie_wire.messages.client import ProcessEvents
from pie_wire.messages.common import Event

from pie_gateway.session import Session

MESSAGE_BYTES = 1 << 20
"""A message that holds so much leaves."""


@dataclass
class _Batch:
    pids: list[str] = field(default_factory=list[str])
    counts: list[int] = field(default_factory=list[int])
    events: list[Event] = field(default_factory=list[Event])
    size: int = 0


class Deliveries:
    """Whoever adds must flush before anything else is sent to the sessions: order would be lost."""

    def __init__(self) -> None:
        self._batches: dict[Session, _Batch] = {}

    def add(self, session: Session, pid: str, events: Sequence[Event]) -> None:
        """The next events of a process for the session that is attached to it."""
        batch = self._batches.setdefault(session, _Batch())
        if batch.pids and batch.pids[-1] == pid:
            batch.counts[-1] += len(events)
        else:
            batch.pids.append(pid)
            batch.counts.append(len(events))
        batch.events.extend(events)
        batch.size += sum(event.size for event in events)
        if batch.size >= MESSAGE_BYTES:
            self._send(session, self._batches.pop(session))

    def flush(self) -> None:
        """One message for each session that has events."""
        batches, self._batches = self._batches, {}
        for session, batch in batches.items():
            self._send(session, batch)

    @staticmethod
    def _send(session: Session, batch: _Batch) -> None:
        session.push(ProcessEvents(batch.pids, batch.counts, batch.events))
