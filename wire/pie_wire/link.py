"""One link between two processes: handshake, liveness, repair. A state machine without I/O.

dialer                         acceptor
  | hello(session or 0) --------> |
  | <------ ready(session) ------ |      up on both sides
  | <==== numbered frames ======> |
  | <------- beats -------------> |      each also acknowledges; `sent` shows a lost tail
  | <---- resend(start) --------> |      on a gap
  | ---------- bye -------------> |      or death: process watch, silence, unrepairable gap, new incarnation
"""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pie_wire import PROTOCOL_VERSION
from pie_wire.channel import Channel
from pie_wire.codec import Buffer, Frame, Header, decode, encode, encode_body
from pie_wire.errors import BadField, PeerLost, PieError, ProtocolError, VersionMismatch, from_info
from pie_wire.messages.link import Beat, Bye, Hello, Identity, LinkMessage, Ready, Refused, Rehello, Resend

ACK_WITHIN = 0.2
"""Seconds that an acknowledgement waits for a frame to travel with, where little has come."""


@dataclass(frozen=True)
class Timing:
    """Seconds. `dead` must exceed the longest stall that is to be survived (a stopped or overloaded peer)."""

    hello: float = 0.25
    """Between the first greetings; unanswered ones become rarer, down to `hello_slow`."""
    hello_slow: float = 2.0
    refused: float = 1.0
    """Pause of a dialer that was refused, before it greets again."""
    beat: float = 0.5
    stuck: float = 2.0
    dead: float = 15.0


class State(enum.Enum):
    GREETING = "greeting"
    UP = "up"
    CLOSED = "closed"


@dataclass(frozen=True)
class Up:
    identity: Identity
    session: int


@dataclass(frozen=True)
class Down:
    cause: PieError


@dataclass(frozen=True)
class Deliver:
    frame: Frame


@dataclass(frozen=True)
class Complaint:
    """The peer could not use a frame of this side's; the session goes on."""

    error: PieError


LinkEvent = Up | Down | Deliver | Complaint


class Link:
    """Either end. Feed frames and ticks in; take `out` (frames to send) and `events` away after each call."""

    def __init__(
        self,
        me: Callable[[], Identity],
        *,
        dialer: bool,
        timing: Timing,
        now: float,
        attempts: Callable[[], int] | None = None,
    ) -> None:
        """`attempts` gives growing numbers; links that follow each other on one socket must share it."""
        self._me = me
        self._dialer = dialer
        self._timing = timing
        self._attempts = attempts or itertools.count(1).__next__
        self.state = State.GREETING
        self.identity: Identity | None = None
        self.out: list[list[Buffer]] = []
        self.events: deque[LinkEvent] = deque()
        self.peer_progress = 0
        self.refusal: PieError | None = None
        """Why the acceptor refused the last hello; a dialer keeps trying unless versions differ."""
        self.progress: Callable[[], int] = lambda: 0
        self._channel: Channel | None = None
        self._attempt = self._attempts() if dialer else 0
        """Dialer: of the next new session. Acceptor: of the hello that opened the present one."""
        self._heard = now
        self._next_hello = now
        self._hello_pause = timing.hello
        self._next_rehello = now
        self._next_beat = now
        self._ticked = now
        self._owing = (0, 0.0)
        """The acknowledgement behind which something has come, and when the next one is due."""

    def follow(self, refused: Link) -> None:
        """A dialer that was refused keeps its pause when its link is remade at once."""
        self._next_hello = max(self._next_hello, refused._next_hello)

    @property
    def session(self) -> int:
        return self._channel.session if self._channel else 0

    @property
    def idle(self) -> bool:
        """All that was sent has been acknowledged."""
        return self._channel is None or self._channel.idle

    @property
    def owed(self) -> int:
        """Bytes that the peer has not acknowledged, with those that wait for the window."""
        return self._channel.owed if self._channel else 0

    def silent_for(self, now: float) -> float:
        """Seconds since the peer was last heard."""
        return now - self._heard

    def is_stuck(self, now: float) -> bool:
        return self.state is State.UP and self.silent_for(now) > self._timing.stuck

    def accept(self, hello: Hello, session: int, now: float) -> None:
        """Acceptor: open the link for this hello, resume it, or ignore a hello that a newer one has overtaken."""
        same_process = self.identity is not None and self.identity.incarnation == hello.identity.incarnation
        if same_process and 0 < hello.attempt < self._attempt:
            return
        self._heard = now
        self.identity = hello.identity
        channel = self._channel
        repeated = same_process and 0 < hello.attempt == self._attempt
        resumed = channel is not None and (repeated or hello.session == channel.session)
        if channel is None or not resumed:
            self._lose(PeerLost(f"{hello.identity.kind} {hello.identity.name} started a new session"))
            channel = self._channel = Channel(session)
            self._attempt = hello.attempt
        ready = Ready(
            *PROTOCOL_VERSION,
            identity=self._me(),
            session=channel.session,
            received=channel.received,
            beat_ms=int(self._timing.beat * 1000),
            dead_ms=int(self._timing.dead * 1000),
            attempt=hello.attempt,
        )
        self._control(ready)
        if resumed:
            channel.on_ack(hello.received)
            self._repair(hello.received + 1)
        else:
            self.state = State.UP
            self.events.append(Up(hello.identity, channel.session))

    def send(self, verb: bytes, header: Header, body: bytes, buffers: Sequence[Buffer] = ()) -> None:
        """Queue a numbered frame. The link must be up; PeerLost otherwise."""
        if self.state is not State.UP or self._channel is None:
            raise PeerLost("the link is not up")
        try:
            self._channel.queue(verb, header, body, buffers)
        except PieError as exc:
            self.give_up(exc)
            raise
        self.out.extend(self._channel.flush())

    def receive(self, frame: Frame, now: float) -> None:
        """A frame from the peer's end."""
        if self.state is State.CLOSED:
            return
        if frame.verb.startswith(b"link."):
            message = decode(frame)
            if not isinstance(message, LinkMessage):
                raise ProtocolError(f"{frame.verb!r} is not a link message")
            self._receive_control(message, frame.header, now)
            return
        channel = self._channel
        if self.state is not State.UP or channel is None or frame.header.session != channel.session:
            self._stray(now)
            return
        self._heard = now
        channel.on_ack(frame.header.ack)
        self.out.extend(channel.flush())
        size = len(frame.body) + sum(len(b) for b in frame.buffers)
        if channel.accept(frame.header.seq, size):
            self.events.append(Deliver(frame))
        elif frame.header.seq > channel.received:
            self._ask_for_gap(frame.header.seq, now)
        if channel.ack_is_due:
            self._beat(now)

    def tick(self, now: float) -> None:
        """Time passes: greet, beat, judge. Call every 100 ms or so, at least."""
        stalled = now - self._ticked
        if stalled > 1.0:
            self._heard += stalled  # this process slept, so the peer's silence says nothing
        self._ticked = now
        if self.state is State.GREETING:
            if self._dialer and now >= self._next_hello:
                self._hello(now)
        elif self.state is State.UP and self._channel is not None:
            if self.silent_for(now) > self._timing.dead:
                self.give_up(PeerLost(f"nothing heard for {self._timing.dead:g} s"))
            elif now >= self._next_beat or self._ack_is_late(self._channel, now):
                self._beat(now)

    def lost(self, cause: PieError) -> None:
        """The peer is known to be dead (process watch). A dialer goes on greeting: a successor may bind there."""
        self._lose(cause)
        self._channel = None
        self.state = State.GREETING if self._dialer else State.CLOSED

    def give_up(self, cause: PieError) -> None:
        """End the session, with a last gasp to the peer. A dialer greets again for a new one."""
        if self.state is State.UP:
            self._control(Bye(cause.info()))
        if self.state is not State.CLOSED:
            self.lost(cause)

    def close(self, cause: PieError) -> None:
        """Leave: a last gasp to the peer, Down to this side, nothing after that. A dialer must be remade."""
        self.give_up(cause)
        self.state = State.CLOSED

    def _receive_control(self, message: LinkMessage, header: Header, now: float) -> None:
        match message:
            case Ready() if self._dialer:
                self._on_ready(message, now)
            case Refused():
                self._on_refused(message, now)
            case Rehello() if self._dialer:
                self._stray(now)
            case Beat() | Resend() | Bye():
                if self._channel is None or header.session != self._channel.session:
                    if not isinstance(message, Bye):
                        self._stray(now)
                    return
                self._heard = now
                self._channel.on_ack(header.ack)
                if isinstance(message, Bye):
                    self.lost(from_info(message.error))
                elif isinstance(message, Resend):
                    self._repair(message.start)
                else:
                    self.peer_progress = message.progress
                    self._ask_for_gap(message.sent, now)
                    self.out.extend(self._channel.flush())
            case _:
                raise ProtocolError(f"{message.verb} does not belong on this side of a link")

    def _on_ready(self, ready: Ready, now: float) -> None:
        if ready.major != PROTOCOL_VERSION[0]:
            self._on_refused(
                Refused(VersionMismatch(f"peer speaks version {ready.major}, this side {PROTOCOL_VERSION[0]}").info()),
                now,
            )
            return
        if ready.session < 1:
            raise BadField(f"link.ready: a session number is positive, got {ready.session}")
        if self._channel is not None and self._channel.session == ready.session:
            self._heard = now
            self._hello_pause = self._timing.hello
            self.identity = ready.identity
            self._channel.on_ack(ready.received)
            self._repair(ready.received + 1)
            return
        if ready.attempt != self._attempt:
            return  # the answer to a hello of an older session, which nobody wants any more
        self._heard = now
        self._hello_pause = self._timing.hello
        self.refusal = None
        self._lose(PeerLost(f"{ready.identity.kind} {ready.identity.name} has lost this session (restarted?)"))
        self._channel = Channel(ready.session)
        self._attempt = self._attempts()
        self.identity = ready.identity
        self.state = State.UP
        self._next_beat = now
        self.events.append(Up(ready.identity, ready.session))

    def _on_refused(self, refused: Refused, now: float) -> None:
        error = from_info(refused.error)
        if not self._dialer:
            self.events.append(Complaint(error))
        elif isinstance(error, VersionMismatch):
            self.refusal = error
            self.lost(error)
            self.state = State.CLOSED
            self._next_hello = now + self._timing.refused
        elif self.state is State.UP and refused.attempt != self._attempt:
            self.events.append(Complaint(error))
        elif refused.attempt in (0, self._attempt):
            self.refusal = error
            self.lost(error)
            self._next_hello = now + self._timing.refused

    def _stray(self, now: float) -> None:
        """A frame of a session that this side does not have: at most one side remembers it, so let the dialer greet."""
        if self._dialer:
            if self.state is State.UP and now >= self._next_hello:
                self._hello(now)
        elif now >= self._next_rehello:
            self._next_rehello = now + self._timing.hello / 2
            self._control(Rehello())

    def _repair(self, start: int) -> None:
        if self._channel is None:
            return
        try:
            self.out.extend(self._channel.resend(start))
            self.out.extend(self._channel.flush())
        except PeerLost as exc:
            self.give_up(exc)

    def _ask_for_gap(self, peer_sent: int, now: float) -> None:
        if self._channel is None:
            return
        start = self._channel.gap_to_report(peer_sent, now)
        if start is not None:
            self._control(Resend(start))

    def _hello(self, now: float) -> None:
        self._next_hello = now + self._hello_pause
        self._hello_pause = min(self._hello_pause * 1.5, self._timing.hello_slow)
        received = self._channel.received if self._channel else 0
        self._control(
            Hello(
                *PROTOCOL_VERSION,
                identity=self._me(),
                session=self.session,
                received=received,
                attempt=self._attempt,
            )
        )

    def _ack_is_late(self, channel: Channel, now: float) -> bool:
        if not channel.owes_ack:
            return False
        sent, due = self._owing
        if sent != channel.ack_sent or not due:
            self._owing = (channel.ack_sent, now + ACK_WITHIN)
            return False
        return now >= due

    def _beat(self, now: float) -> None:
        self._next_beat = now + self._timing.beat
        self._control(Beat(sent=self._channel.sent if self._channel else 0, progress=self.progress()))

    def _control(self, message: LinkMessage) -> None:
        channel = self._channel
        header = Header(session=channel.session, ack=channel.mark_acked()) if channel else Header()
        self.out.append(encode(message.verb.encode(), header, encode_body(message)))

    def _lose(self, cause: PieError) -> None:
        if self.state is State.UP:
            self.events.append(Down(cause))
            self.state = State.GREETING
            if self._dialer:
                self._attempt = self._attempts()
