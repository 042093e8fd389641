"""One client's place in a process's events, and the window of events it has not acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pie_wire.messages.common import Event

from pie_gateway.deliveries import Deliveries
from pie_gateway.session import Session

WINDOW_EVENTS = 1024
WINDOW_BYTES = 1 << 20


class Attachment:
    """Sends dense events from number `next_seq` on, as far as the window allows, by way of `deliveries`."""

    def __init__(self, session: Session, pid: str, start: int, deliveries: Deliveries) -> None:
        self.session = session
        self._deliveries = deliveries
        self.pid = pid
        self.next_seq = start
        self._unacked: deque[tuple[int, int]] = deque()
        self._unacked_bytes = 0

    @property
    def room_events(self) -> int:
        return WINDOW_EVENTS - len(self._unacked)

    @property
    def room_bytes(self) -> int:
        """An empty window takes one event of any size."""
        return WINDOW_BYTES - self._unacked_bytes

    @property
    def is_open(self) -> bool:
        return self.room_events > 0 and self.room_bytes > 0

    def push(self, events: Sequence[Event]) -> None:
        """Hand over events that follow `next_seq`; the caller has checked the window, and flushes the deliveries."""
        for event in events:
            self._unacked.append((event.seq, event.size))
            self._unacked_bytes += event.size
        self.next_seq = events[-1].seq + 1
        self._deliveries.add(self.session, self.pid, events)

    def fitting(self, events: Sequence[Event]) -> Sequence[Event]:
        """The leading events that the window has room for."""
        room, count = self.room_bytes, 0
        for event in events[: self.room_events]:
            if count and event.size > room:
                break
            if room <= 0:
                break
            room -= event.size
            count += 1
        return events[:count]

    def ack(self, seq: int) -> None:
        while self._unacked and self._unacked[0][0] <= seq:
            self._unacked_bytes -= self._unacked.popleft()[1]
