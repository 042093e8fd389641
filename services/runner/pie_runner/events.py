"""The numbered events of one process: kept until durable, counted until consumed.

  consumed        durable          sent           last_seq
----|---------------|---------------|----------------|
                    |---- kept: sent again after a reconnect ----|
    |------- counted against the unacknowledged limit -----------|
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from pie_wire.errors import ErrorInfo, InternalError
from pie_wire.messages.common import TERMINAL_KINDS, UNACKED_BYTES, UNACKED_EVENTS, Event, EventKind


class EventLog:
    """Numbers are dense from 1; after a terminal event nothing can be added."""

    def __init__(self, max_events: int = UNACKED_EVENTS, max_bytes: int = UNACKED_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.last_seq = 0
        self.durable = 0
        self.consumed = 0
        self.sent = 0
        """Last number pushed on the current link to the gateway."""
        self.ended = False
        self._kept: deque[Event] = deque()
        self._sizes: deque[int] = deque()
        self._unacked_bytes = 0
        self._dropped = 0

    @property
    def first_kept(self) -> int:
        """Number of the oldest event that can still be sent again."""
        return self.last_seq - len(self._kept) + 1

    @property
    def unacked(self) -> int:
        """Events counted against the limit."""
        return len(self._sizes)

    @property
    def is_full(self) -> bool:
        """The unacknowledged limit is reached."""
        return len(self._sizes) >= self._max_events or self._unacked_bytes >= self._max_bytes

    @property
    def is_settled(self) -> bool:
        """Ended, and nothing left to send again."""
        return self.ended and not self._kept

    def add(self, kind: EventKind, text: str = "", data: bytes = b"", error: ErrorInfo | None = None) -> Event:
        """Append the next event, after the gap event owed for dropped ones. The limit is the caller's to respect."""
        if self.ended:
            raise InternalError("an event after the terminal one")
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._append(Event(self.last_seq + 1, "gap", text=str(dropped)))
        event = Event(self.last_seq + 1, kind, text, data, error)
        self._append(event)
        self.ended = kind in TERMINAL_KINDS
        return event

    def drop(self) -> None:
        """Count an event that was not taken; one `gap` event will stand for all of a stretch."""
        self._dropped += 1

    def flush_gap(self) -> bool:
        """Write the owed gap event if there is room again. True if it was written."""
        if not self._dropped or self.is_full or self.ended:
            return False
        dropped, self._dropped = self._dropped, 0
        self._append(Event(self.last_seq + 1, "gap", text=str(dropped)))
        return True

    def credit(self, durable: int, consumed: int) -> int:
        """Progress from the gateway; never goes back. Returns the bytes that became durable."""
        self.durable = max(self.durable, min(durable, self.last_seq))
        freed = 0
        while self._kept and self._kept[0].seq <= self.durable:
            freed += self._kept.popleft().size
        before = self.consumed
        self.consumed = max(self.consumed, min(consumed, self.durable))
        for _ in range(self.consumed - before):
            self._unacked_bytes -= self._sizes.popleft()
        return freed

    def unsent(self, limit_bytes: int) -> list[Event]:
        """The next events to push, up to about `limit_bytes`; moves `sent`."""
        start = max(self.sent + 1, self.first_kept)
        taken: list[Event] = []
        total = 0
        for event in islice(self._kept, start - self.first_kept, None):
            taken.append(event)
            total += event.size
            if total >= limit_bytes:
                break
        if taken:
            self.sent = taken[-1].seq
        return taken

    @property
    def has_unsent(self) -> bool:
        return self.sent < self.last_seq

    def _append(self, event: Event) -> None:
        self.last_seq = event.seq
        size = event.size
        self._kept.append(event)
        self._sizes.append(size)
        self._unacked_bytes += size
