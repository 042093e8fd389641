"""One direction-pair of numbered frames: exactly-once, in-order delivery over a transport that may lose frames.

Go-back-N: the receiver takes only the next number, acknowledges cumulatively and asks for a resend on a gap; the
sender keeps what is not acknowledged. Cumulative acknowledgement and retransmission as in TCP (RFC 9293), with whole
frames as the unit because the transport keeps frame borders and order.

      acked            next_seq
    ----|---- unacked ----|---- backlog (waits for the window) ----
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from pie_wire.codec import Buffer, Header, encode
from pie_wire.errors import Overloaded, PeerLost

WINDOW_FRAMES = 4096
WINDOW_BYTES = 32 << 20
BACKLOG_BYTES = 256 << 20
ACK_EVERY_FRAMES = 64
ACK_EVERY_BYTES = 1 << 20
STALE_REPAIRS = 16
RESEND_PAUSE = 0.2
"""Seconds between two resend requests for the same gap."""


@dataclass(slots=True)
class _Outgoing:
    seq: int
    verb: bytes
    header: Header
    body: bytes
    buffers: Sequence[Buffer]
    size: int


class Channel:
    """State of one session on one side. Produces frames, never touches a socket."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.received = 0
        """Last number received in order."""
        self.acked = 0
        """Last number the peer has acknowledged."""
        self._last_seq = 0
        self._unacked: deque[_Outgoing] = deque()
        self._unacked_bytes = 0
        self._backlog: deque[_Outgoing] = deque()
        self._backlog_bytes = 0
        self._ack_sent = 0
        self._bytes_since_ack = 0
        self._resend_asked = (0, 0.0)
        self._stale_repairs = 0

    @property
    def sent(self) -> int:
        """Last number handed to the transport."""
        return self._unacked[-1].seq if self._unacked else self.acked

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent or acknowledged, on this side."""
        return not self._unacked and not self._backlog

    @property
    def owed(self) -> int:
        """Bytes that the peer has not acknowledged, with those that wait for the window."""
        return self._unacked_bytes + self._backlog_bytes

    @property
    def owes_ack(self) -> bool:
        """Received something that has not been acknowledged yet."""
        return self.received > self._ack_sent

    @property
    def ack_sent(self) -> int:
        """The last number that the peer was told."""
        return self._ack_sent

    @property
    def ack_is_due(self) -> bool:
        """Enough has been received since the last acknowledgement that waiting for a data frame would stall."""
        return self.received - self._ack_sent >= ACK_EVERY_FRAMES or self._bytes_since_ack >= ACK_EVERY_BYTES

    def mark_acked(self) -> int:
        """The number to put in an outgoing header's `ack`."""
        self._ack_sent = self.received
        self._bytes_since_ack = 0
        return self.received

    def queue(self, verb: bytes, header: Header, body: bytes, buffers: Sequence[Buffer]) -> None:
        """Number a frame and queue it.

        Raises:
            Overloaded: the backlog is full; the link must be given up, since numbers are dense.
        """
        size = len(body) + sum(len(b) for b in buffers) + 64
        if self._backlog_bytes + size > BACKLOG_BYTES:
            raise Overloaded(f"{self._backlog_bytes >> 20} MiB wait for a peer that does not acknowledge")
        self._last_seq += 1
        self._backlog.append(_Outgoing(self._last_seq, verb, header, body, buffers, size))
        self._backlog_bytes += size

    def flush(self) -> Iterator[list[Buffer]]:
        """Frames the window allows to be sent now."""
        while self._backlog and (
            not self._unacked or (len(self._unacked) < WINDOW_FRAMES and self._unacked_bytes < WINDOW_BYTES)
        ):
            item = self._backlog.popleft()
            self._backlog_bytes -= item.size
            self._unacked.append(item)
            self._unacked_bytes += item.size
            yield self._frame(item)

    def resend(self, start: int) -> Iterator[list[Buffer]]:
        """Frames from number `start` on, again. A request older than the peer's own acknowledgement is stale.

        Raises:
            PeerLost: the peer keeps missing a frame that it had acknowledged: the gap cannot be filled.
        """
        if start <= self.acked:
            self._stale_repairs += 1
            if self._stale_repairs > STALE_REPAIRS:
                raise PeerLost(f"peer asks for frame {start} after acknowledging {self.acked}: cannot be repaired")
            return
        for item in self._unacked:
            if item.seq >= start:
                yield self._frame(item)

    def on_ack(self, ack: int) -> None:
        """Forget what the peer has."""
        while self._unacked and self._unacked[0].seq <= ack:
            item = self._unacked.popleft()
            self._unacked_bytes -= item.size
            self.acked = item.seq
            self._stale_repairs = 0

    def accept(self, seq: int, size: int) -> bool:
        """True if this frame is the next one and must be delivered; duplicates and frames after a gap are not."""
        if seq != self.received + 1:
            return False
        self.received = seq
        self._bytes_since_ack += size
        return True

    def gap_to_report(self, peer_sent: int, now: float) -> int | None:
        """The number to ask for when the peer has sent more than arrived; None if nothing is missing or the request
        was made less than RESEND_PAUSE ago."""
        start = self.received + 1
        if peer_sent < start:
            return None
        asked, at = self._resend_asked
        if asked == start and now - at < RESEND_PAUSE:
            return None
        self._resend_asked = (start, now)
        return start

    def _frame(self, item: _Outgoing) -> list[Buffer]:
        header = msgspec.structs.replace(item.header, session=self.session, seq=item.seq, ack=self.mark_acked())
        return encode(item.verb, header, item.body, item.buffers)
