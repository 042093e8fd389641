"""All links of one process behind one face: typed handlers in, sends and requests out. No I/O, no clock of its own.

A service core registers a handler per message type; a transport feeds frames and ticks in and takes `outgoing()`
away. Exactly one terminal reply per request is enforced here, on both sides.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import msgspec
import structlog

from pie_wire import PROTOCOL_VERSION
from pie_wire.codec import (
    ERROR,
    OK,
    Buffer,
    Frame,
    Header,
    check_buffers,
    decode,
    decode_body,
    decode_error,
    encode,
    encode_body,
    parse,
)
from pie_wire.errors import (
    BadFrame,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    PeerLost,
    PieError,
    StaleEpoch,
    Unavailable,
    UnknownVerb,
    VersionMismatch,
    from_info,
    to_error,
)
from pie_wire.link import Complaint, Deliver, Down, Link, State, Timing, Up
from pie_wire.messages.base import Message, Push, Request
from pie_wire.messages.link import Hello, Identity, Refused, Rehello

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)

MAX_LINKS = 4096
MAX_PENDING = 65_536
_NO_ANSWER_TO = (b"link.bye", b"link.refused", b"link.rehello")
"""Messages of a link this side does not have and that need no repair."""

log = structlog.get_logger("pie.hub")


@dataclass(frozen=True)
class Scope:
    """On whose behalf a message is sent; goes into its header. Two scopes of the same owner are equal."""

    tenant: str = "local"
    user: str = "local"
    trace: str = field(default="", compare=False)
    """Follows one request through all services and their logs; the hub starts a new one where there is none."""


@dataclass(eq=False)
class Peer:
    """One session with one process. A peer that comes back after a death is a new Peer."""

    identity: Identity
    port: str
    route: bytes
    session: int
    alive: bool = True
    cause: PieError | None = None
    """Why it is no longer alive."""

    @property
    def kind(self) -> str:
        return self.identity.kind

    @property
    def name(self) -> str:
        return self.identity.name

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Answer(Generic[R]):
    """The one terminal reply of a request: a message with buffers, or an error."""

    def __init__(self, message: R | None, error: PieError | None, buffers: Sequence[Buffer] = ()) -> None:
        self.message = message
        self.error = error
        self.buffers = buffers

    def value(self) -> R:
        """The reply message; raises the error."""
        if self.error is not None:
            raise self.error
        if self.message is None:
            raise InternalError("an answer has neither message nor error")
        return self.message


class Incoming(Generic[M]):
    """A message that has arrived. For a request, `reply` or `fail` must be called once, now or later."""

    def __init__(
        self, hub: Hub, peer: Peer, message: M, header: Header, buffers: Sequence[Buffer], size: int = 0
    ) -> None:
        """`size`: bytes of body and buffers."""
        self._hub = hub
        self.size = size
        self.peer = peer
        self.message = message
        self.header = header
        self.buffers = buffers
        self._answered = header.id == 0

    @property
    def scope(self) -> Scope:
        return Scope(self.header.tenant, self.header.user, self.header.trace)

    def reply(self, message: Message, buffers: Sequence[Buffer] = ()) -> None:
        """Answer. A second answer, or one to a peer that has gone, is dropped. One that is too large to be sent
        becomes an error."""
        if self._answered:
            return
        try:
            check_buffers(buffers)
            body = encode_body(message)
        except PieError as exc:
            self.fail(exc)
            return
        self._answered = True
        self._hub.answer(self.peer, OK, self.header, body, buffers)

    def fail(self, error: PieError) -> None:
        """Answer with an error."""
        if not self._answered:
            self._answered = True
            self._hub.answer(self.peer, ERROR, self.header, encode_body(error.info()), ())


@dataclass
class _Pending:
    peer: Peer | None
    port: str
    reply: type[Message]
    then: Callable[[Answer[Any]], None]
    deadline: float
    resume: Callable[[Peer], None] | None = None
    """Set while the request waits for its link to come up."""
    failure: PieError | None = None
    """Set when the request could not be sent: the next tick answers it."""


@dataclass
class Outgoing:
    """Frames for a socket. `route` is empty on a dialed port."""

    port: str
    route: bytes
    frames: list[Buffer]


@dataclass(eq=False)
class _Line:
    """A link and the peer at its other end, once there is one."""

    port: str
    route: bytes
    link: Link
    peer: Peer | None = None


class _Port:
    """A socket's links by route; a dialed port has one, with an empty route."""

    def __init__(self, *, listens: bool) -> None:
        self.listens = listens
        self.lines: dict[bytes, _Line] = {}


class Hub:
    """See the module's text. `clock` gives monotonic seconds; `rng` gives session numbers.

    Callbacks never nest: what a callback sets off (a link that closes, a request that cannot be sent) is reported
    after it has returned. One that raises is logged as a defect and disturbs nothing else.
    """

    def __init__(
        self,
        identity: Identity,
        clock: Callable[[], float],
        *,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.identity = identity
        self.clock = clock
        self.timing = timing or Timing()
        self.progress = 0
        """Counter of work done, sent with beats; the service increments it."""
        self._rng = rng or random.SystemRandom()
        self._ports: dict[str, _Port] = {}
        self._handlers: dict[type[Message], Callable[[Incoming[Any]], Message | None]] = {}
        self._up: list[Callable[[Peer], None]] = []
        self._down: list[Callable[[Peer, PieError], None]] = []
        self._pending: dict[int, _Pending] = {}
        self._ids = itertools.count(1)
        self._out: list[Outgoing] = []
        self._epochs: dict[tuple[str, str], int] = {}
        self._dirty: dict[_Line, None] = {}  # in order: the same input gives the same output
        self._unsettled: deque[_Line] = deque()
        self._settling = False
        self._attempts = itertools.count(1)
        self._trace = identity.incarnation[-8:] or f"{self._rng.getrandbits(32):08x}"
        self._traces = itertools.count(1)

    # -- set-up

    def listen(self, port: str) -> None:
        """Accept links on a port (a ROUTER socket of the transport)."""
        self._ports[port] = _Port(listens=True)

    def dial(self, port: str) -> None:
        """Keep one link to whoever binds the other end of a port (a DEALER socket). Idempotent; remakes a closed
        link."""
        current = self._ports.get(port)
        if current is None or current.lines[b""].link.state is State.CLOSED:
            link = self._link(dialer=True)
            if current is not None and current.lines[b""].link.refusal is not None:
                link.follow(current.lines[b""].link)
            entry = self._ports[port] = _Port(listens=False)
            entry.lines[b""] = _Line(port, b"", link)

    def hang_up(self, port: str, cause: PieError) -> None:
        """Close all links of a port and forget it."""
        entry = self._ports.pop(port, None)
        if entry is not None:
            for line in list(entry.lines.values()):
                line.link.close(cause)
                self._settle(line)

    def on(self, message: type[M], handler: Callable[[Incoming[M]], Message | None]) -> None:
        """Handle a message type. A request's handler returns its reply, or None to answer later through Incoming;
        a PieError it raises becomes the error reply."""
        self._handlers[message] = handler

    def on_up(self, callback: Callable[[Peer], None]) -> None:
        """Called when a session opens."""
        self._up.append(callback)

    def on_down(self, callback: Callable[[Peer, PieError], None]) -> None:
        """Called once when a session ends, after its pending requests have failed."""
        self._down.append(callback)

    # -- state

    def peer(self, port: str) -> Peer | None:
        """The live peer of a dialed port."""
        line = self._ports[port].lines.get(b"") if port in self._ports else None
        return line.peer if line and line.peer and line.peer.alive else None

    def peers(self) -> list[Peer]:
        """All live peers."""
        lines = (line for port in self._ports.values() for line in port.lines.values())
        return [line.peer for line in lines if line.peer is not None and line.peer.alive]

    def refusal(self, port: str) -> PieError | None:
        """Why the other end of a dialed port refuses this side, if it does."""
        line = self._ports[port].lines.get(b"") if port in self._ports else None
        return line.link.refusal if line else None

    def is_stuck(self, peer: Peer) -> bool:
        """Alive as a process, but silent for longer than `timing.stuck`."""
        line = self._line_of(peer)
        return line is not None and line.link.is_stuck(self.clock())

    def supersede(self, kind: str, name: str, epoch: int) -> None:
        """Refuse greetings of incarnations with an older epoch from now on: a service greets before it has its epoch,
        so that its predecessor, if it lives, could otherwise come back and end its link."""
        self._epochs[kind, name] = max(epoch, self._epochs.get((kind, name), 0))

    def owed(self, peer: Peer) -> int:
        """Bytes sent or waiting to be sent that the peer has not acknowledged."""
        line = self._line_of(peer)
        return line.link.owed if line else 0

    def progress_of(self, peer: Peer) -> int:
        """The peer's last reported progress counter."""
        line = self._line_of(peer)
        return line.link.peer_progress if line else 0

    @property
    def idle(self) -> bool:
        """Everything sent has been acknowledged."""
        return not self._out and all(line.link.idle for p in self._ports.values() for line in p.lines.values())

    # -- sending

    def send(self, peer: Peer, message: Push, *, buffers: Sequence[Buffer] = (), scope: Scope | None = None) -> bool:
        """Push a message. False if the peer has gone, in which case on_down has said or will say so.

        Raises:
            TooLarge: body or buffers.
        """
        check_buffers(buffers)
        return self._send(peer, message.verb.encode(), self._header(scope), encode_body(message), buffers)

    def request(
        self,
        to: Peer | str,
        message: Request[R],
        then: Callable[[Answer[R]], None],
        *,
        timeout: float,
        buffers: Sequence[Buffer] = (),
        scope: Scope | None = None,
    ) -> int:
        """Ask; `then` is called exactly once, after this call has returned: reply, error reply, deadline, or the
        peer's death.

        `to` may be a dialed port: the request then waits for its link within the deadline. Returns an id for
        `cancel`.

        Raises:
            Overloaded: too many requests are pending. TooLarge: body or buffers.
        """
        if len(self._pending) >= MAX_PENDING:
            raise Overloaded(f"{MAX_PENDING} requests are already pending")
        check_buffers(buffers)
        body = encode_body(message)
        verb = message.verb.encode()
        number = next(self._ids)
        unsent = self._header(scope)

        def go(peer: Peer) -> None:
            pending.peer, pending.resume = peer, None
            left = max(1, int((pending.deadline - self.clock()) * 1000))
            header = msgspec.structs.replace(unsent, id=number, ttl=left)
            if not self._send(peer, verb, header, body, buffers):
                pending.failure = self._lost_answer(peer, peer.cause)

        port = to if isinstance(to, str) else to.port
        pending = _Pending(None, port, message.reply, then, self.clock() + timeout, go)
        self._pending[number] = pending
        peer = self.peer(to) if isinstance(to, str) else to
        if peer is not None:
            go(peer)
        return number

    def cancel(self, number: int) -> None:
        """Forget a request: its `then` will not be called."""
        self._pending.pop(number, None)

    def answer(self, peer: Peer, verb: bytes, to: Header, body: bytes, buffers: Sequence[Buffer]) -> None:
        """For Incoming only."""
        self._send(peer, verb, Header(re=to.id, tenant=to.tenant, user=to.user, trace=to.trace), body, buffers)

    # -- transport side

    def receive(self, port: str, route: bytes, frames: Sequence[Buffer]) -> None:
        """Frames from a socket, routing removed."""
        entry = self._ports.get(port)
        if entry is None:
            return
        try:
            frame = parse(frames)
            line = entry.lines.get(route)
            if entry.listens and frame.verb == b"link.hello":
                self._greeted(port, entry, route, frame)
            elif line is not None:
                line.link.receive(frame, self.clock())
            elif frame.verb not in _NO_ANSWER_TO:
                self._control(port, route, Rehello())
        except PieError as exc:
            log.warning("frame refused", port=port, code=exc.code, reason=exc.message)
            if entry.listens:
                self._control(port, route, Refused(exc.info()))
        line = entry.lines.get(route)
        if line is not None:
            self._settle(line)

    def tick(self) -> None:
        """Time passes. Call every 100 ms or so, at least."""
        now = self.clock()
        for entry in list(self._ports.values()):
            for line in list(entry.lines.values()):
                line.link.tick(now)
                self._settle(line)
        for number, pending in list(self._pending.items()):
            if pending.failure is not None:
                self._finish(number, Answer(None, pending.failure))
            elif now >= pending.deadline:
                where = f"{pending.peer}" if pending.peer else pending.port
                refusal = self.refusal(pending.port) if pending.peer is None else None
                late = refusal or (
                    DeadlineExceeded(f"no answer from {where} in time")
                    if pending.peer
                    else Unavailable(f"{where} cannot be reached: is it running?")
                )
                self._finish(number, Answer(None, late))

    def lost(self, peer: Peer, cause: PieError) -> None:
        """The transport knows that the peer's process is dead."""
        line = self._line_of(peer)
        if line is not None and peer.alive:
            line.link.lost(cause)
            self._settle(line)

    def outgoing(self) -> list[Outgoing]:
        """What must be sent now; the caller owns it."""
        self._collect()
        out, self._out = self._out, []
        return out

    def close(self, cause: PieError) -> None:
        """Say goodbye on every link. Take `outgoing()` once more afterwards."""
        for entry in list(self._ports.values()):
            for line in list(entry.lines.values()):
                line.link.close(cause)
                self._settle(line)

    # -- inside

    def _link(self, *, dialer: bool) -> Link:
        link = Link(
            lambda: self.identity,
            dialer=dialer,
            timing=self.timing,
            now=self.clock(),
            attempts=self._attempts.__next__,
        )
        link.progress = lambda: self.progress
        return link

    def _line_of(self, peer: Peer) -> _Line | None:
        entry = self._ports.get(peer.port)
        line = entry.lines.get(peer.route) if entry else None
        return line if line and line.peer is peer else None

    def _header(self, scope: Scope | None) -> Header:
        scope = scope or Scope()
        trace = scope.trace or f"{self._trace}-{next(self._traces):x}"
        return Header(tenant=scope.tenant, user=scope.user, trace=trace)

    def _control(self, port: str, route: bytes, message: Message) -> None:
        self._out.append(Outgoing(port, route, encode(message.verb.encode(), Header(), encode_body(message))))

    def _send(self, peer: Peer, verb: bytes, header: Header, body: bytes, buffers: Sequence[Buffer]) -> bool:
        line = self._line_of(peer)
        if line is None or not peer.alive or line.link.session != peer.session:
            return False
        try:
            line.link.send(verb, header, body, buffers)
        except PieError:
            self._settle(line)
            return False
        self._dirty[line] = None
        return True

    def _greeted(self, port: str, entry: _Port, route: bytes, frame: Frame) -> None:
        try:
            self._accept(port, entry, route, frame)
        except PieError as exc:
            log.warning("hello refused", port=port, code=exc.code, reason=exc.message)
            self._control(port, route, Refused(exc.info(), _opening(frame).attempt))

    def _accept(self, port: str, entry: _Port, route: bytes, frame: Frame) -> None:
        major = _opening(frame).major
        if major != PROTOCOL_VERSION[0]:
            raise VersionMismatch(f"peer speaks major version {major}, this side {PROTOCOL_VERSION[0]}: upgrade one")
        hello = cast(Hello, decode(frame))
        who = hello.identity
        if who.epoch and who.epoch < self._epochs.get((who.kind, who.name), 0):
            raise StaleEpoch(f"{who.kind} {who.name} has been replaced by a newer incarnation: this one must stop")
        if route not in entry.lines and len(entry.lines) >= MAX_LINKS:
            raise Overloaded(f"{MAX_LINKS} links are open: close some, or use another gateway")
        if who.epoch:
            self._epochs[who.kind, who.name] = who.epoch
            for other in list(entry.lines.values()):
                peer = other.peer
                if other.route != route and peer and (peer.kind, peer.name) == (who.kind, who.name):
                    other.link.lost(PeerLost(f"{peer} was replaced by a new incarnation"))
                    self._settle(other)
        line = entry.lines.get(route)
        if line is None or line.link.state is State.CLOSED:
            line = entry.lines[route] = _Line(port, route, self._link(dialer=False))
        line.link.accept(hello, self._rng.getrandbits(53) | 1, self.clock())

    def _settle(self, line: _Line) -> None:
        """Turn a link's frames into outgoing ones and its events into calls; inside a call, once that has returned."""
        self._take(line)
        self._unsettled.append(line)
        if self._settling:
            return
        self._settling = True
        try:
            while self._unsettled:
                self._report(self._unsettled.popleft())
        finally:
            self._settling = False

    def _report(self, line: _Line) -> None:
        link = line.link
        while link.events:
            match link.events.popleft():
                case Up(identity, session):
                    line.peer = Peer(identity, line.port, line.route, session)
                    self._opened(line.peer)
                case Down(cause):
                    if line.peer is not None:
                        self._closed(line.peer, cause)
                case Deliver(frame):
                    if line.peer is not None:
                        self._deliver(line.peer, frame)
                case Complaint(error):
                    log.warning("peer refused a frame", peer=str(line.peer), code=error.code, reason=error.message)
        self._take(line)
        entry = self._ports.get(line.port)
        if link.state is State.CLOSED and entry and entry.listens and entry.lines.get(line.route) is line:
            del entry.lines[line.route]

    def _take(self, line: _Line) -> None:
        self._out.extend(Outgoing(line.port, line.route, frames) for frames in line.link.out)
        line.link.out.clear()

    def _collect(self) -> None:
        for line in self._dirty:
            self._take(line)
        self._dirty.clear()

    def _opened(self, peer: Peer) -> None:
        for callback in self._up:
            self._call(callback, peer)
        for number, pending in list(self._pending.items()):
            if pending.resume is not None and pending.port == peer.port and number in self._pending:
                pending.resume(peer)

    def _closed(self, peer: Peer, cause: PieError) -> None:
        peer.alive, peer.cause = False, cause
        for number, pending in list(self._pending.items()):
            if pending.peer is peer:
                self._finish(number, Answer(None, self._lost_answer(peer, cause)))
        for callback in self._down:
            self._call(callback, peer, cause)

    @staticmethod
    def _lost_answer(peer: Peer, cause: PieError | None) -> PieError:
        return PeerLost(f"{peer}: {cause.message}", cause=cause.code) if cause else PeerLost(f"{peer} is gone")

    @staticmethod
    def _call(callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("callback failed")

    def _deliver(self, peer: Peer, frame: Frame) -> None:
        if frame.verb in (OK, ERROR):
            pending = self._pending.get(frame.header.re)
            if pending is None or pending.peer is not peer:
                return  # late: its deadline has passed or it was cancelled
            answer: Answer[Any]
            try:
                if frame.verb == ERROR:
                    answer = Answer(None, from_info(decode_error(frame.body)))
                else:
                    answer = Answer(decode_body(pending.reply, frame.body), None, frame.buffers)
            except PieError as exc:
                answer = Answer(None, exc)
            self._finish(frame.header.re, answer)
            return
        try:
            message = decode(frame)
        except PieError as exc:
            self._refuse(peer, frame.header, exc)
            return
        handler = self._handlers.get(type(message))
        if handler is None:
            self._refuse(peer, frame.header, UnknownVerb(f"{self.identity.kind} does not handle {message.verb}"))
            return
        if isinstance(message, Request) != bool(frame.header.id):
            self._refuse(peer, frame.header, BadFrame(f"{message.verb}: requests need an id, pushes must have none"))
            return
        size = len(frame.body) + sum(len(buffer) for buffer in frame.buffers)
        incoming = Incoming(self, peer, message, frame.header, frame.buffers, size)
        try:
            reply = handler(incoming)
        except PieError as exc:
            if not frame.header.id:
                log.warning("push failed", verb=message.verb, peer=str(peer), code=exc.code, reason=exc.message)
            incoming.fail(exc)
        except Exception as exc:
            log.exception("handler failed", verb=message.verb, peer=str(peer))
            incoming.fail(to_error(exc))
        else:
            if reply is not None:
                incoming.reply(reply)

    def _refuse(self, peer: Peer, header: Header, error: PieError) -> None:
        log.warning("message refused", peer=str(peer), code=error.code, reason=error.message)
        if header.id:
            self.answer(peer, ERROR, header, encode_body(error.info()), ())
        else:
            self._control(peer.port, peer.route, Refused(error.info()))

    def _finish(self, number: int, answer: Answer[Any]) -> None:
        pending = self._pending.pop(number, None)
        if pending is not None:
            self._call(pending.then, answer)


class _Opening(msgspec.Struct):
    """What any version's hello says, whatever else it holds."""

    major: int = 0
    attempt: int = 0


def _opening(frame: Frame) -> _Opening:
    try:
        return cast(_Opening, decode_body(_Opening, frame.body))
    except PieError:
        return _Opening()
