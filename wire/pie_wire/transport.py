"""ZeroMQ sockets under a Hub: one ROUTER per listening port, one DEALER per dialed port, nothing per request.

`Transport` is driven by a loop of the caller's (runner, engine); `AsyncTransport` by asyncio (gateway, kvstore,
clients). Both also watch peer processes on the same host, so that a death is known at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
import zmq

from pie_wire.codec import MAX_BODY_BYTES, Buffer
from pie_wire.errors import BadRequest, PeerLost, PieError, Unavailable
from pie_wire.hub import Answer, Hub, Peer
from pie_wire.messages.base import Message, Request
from pie_wire.process import watch

R = TypeVar("R", bound=Message)

TICK = 0.1
"""Seconds between two ticks: each wakes a process that may have nothing to do, beside an engine that needs the core."""
HIGH_WATER = 16_384
"""A fuse above the links' own window, never the mechanism of flow control."""
MAX_FRAME_BYTES = 64 << 20
DEATH_GRACE = 0.1
"""Seconds between a process's death and giving it up, in which its last frames still arrive."""
LINGER_MS = 500
"""What the last frames may take to leave a closed socket."""
HEARTBEAT = 3.0
HEARTBEAT_TIMEOUT = 12.0
"""Seconds of silence after which a TCP connection is given up and made anew: longer than a stop that a peer survives,
shorter than a link's death. A host that vanished, or changed its address, never closes its connections."""
BATCH = 512
"""Messages taken from one socket before the others get their turn."""

log = structlog.get_logger("pie.transport")


# As plain numbers, and frame by frame: pyzmq's own loops over the parts of a message make enums on the way, which takes
# longer than sending or receiving the parts.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)


def _receive_parts(socket: zmq.Socket[bytes]) -> list[Any]:
    """The parts of one message. Raises zmq.Again when there is none."""
    frame = socket.recv(_NOBLOCK, copy=False)
    parts = [frame.bytes]
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
        parts.append(frame.bytes)
    return parts


def _is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits. Asking is a quarter of the work of trying in vain to receive."""
    return bool(int(socket.getsockopt(_EVENTS)) & _READABLE)


def _send_parts(socket: zmq.Socket[bytes], parts: Sequence[Buffer]) -> None:
    """One message. Raises zmq.Again when the fuse blew."""
    for part in parts[:-1]:
        socket.send(part, _MORE)
    socket.send(parts[-1], _NOBLOCK)


@dataclass
class _Watch:
    peer: Peer
    fd: int
    dead_at: float | None = None


def _fd(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(zmq.FD))


def _watch_connections(socket: zmq.Socket[bytes], endpoint: str) -> None:
    if endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, int(HEARTBEAT * 1000))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(HEARTBEAT_TIMEOUT * 1000))


class Transport:
    """Owns the sockets of one process. Not thread-safe, except for `wake`."""

    def __init__(self, hub: Hub, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        self.hub = hub
        self._context = context or zmq.Context()
        self._owns_context = context is None
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._dialed: dict[str, str] = {}
        self._routers: set[str] = set()
        self._poller = zmq.Poller()
        self._fds: dict[int, Callable[[], None]] = {}
        self._watches: dict[int, _Watch] = {}
        self._next_tick = 0.0
        self._on_tick: list[Callable[[], None]] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._wake_lock = threading.Lock()
        self._closed = False
        self.add_fd(self._wake_read, self._drain_wake)
        hub.on_up(self._watch_peer)
        hub.on_down(self._forget_peer)

    # -- sockets

    def bind(self, port: str, endpoint: str) -> str:
        """Listen. Returns the endpoint with its real port number (`tcp://host:*` picks one).

        Raises:
            BadRequest: the endpoint is malformed. Unavailable: it is taken.
        """
        socket = self._socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        _watch_connections(socket, endpoint)
        if endpoint.startswith("ipc://"):
            path = endpoint.removeprefix("ipc://")
            if len(path.encode()) > 100:
                socket.close()
                raise BadRequest(f"socket path longer than 100 bytes: {path}: set PIE_HOME to a shorter folder")
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as exc:
            socket.close()
            if exc.errno == zmq.EADDRINUSE:
                raise Unavailable(f"{endpoint} is in use: is another Pie running there?") from exc
            raise BadRequest(f"cannot listen on {endpoint}: {exc}") from exc
        if endpoint.startswith("ipc://"):
            Path(endpoint.removeprefix("ipc://")).chmod(0o600)
        self._add(port, socket)
        self._routers.add(port)
        self.hub.listen(port)
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def dial(self, port: str, endpoint: str) -> None:
        """Keep a link to whoever listens at `endpoint`. The same port and endpoint again: only a closed link is
        remade."""
        if self._dialed.get(port) != endpoint:
            self.hang_up(port)
            socket = self._socket(zmq.DEALER)
            # ZMQ_IMMEDIATE stays off: with it a disconnect discards what had arrived and was not read yet.
            socket.setsockopt(zmq.ROUTING_ID, b"d" + secrets.token_bytes(12))
            socket.setsockopt(zmq.RECONNECT_IVL, 50)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
            _watch_connections(socket, endpoint)
            try:
                socket.connect(endpoint)
            except zmq.ZMQError as exc:
                socket.close()
                raise BadRequest(f"cannot dial {endpoint!r}: {exc}") from exc
            self._add(port, socket)
            self._dialed[port] = endpoint
        self.hub.dial(port)

    def hang_up(self, port: str) -> None:
        """Close a dialed port."""
        socket = self._sockets.get(port)
        if socket is not None:
            answering = self.hub.peer(port) is not None
            self.hub.hang_up(port, PeerLost("hung up"))
            self._send_all()
            self._remove(port, socket)
            self._dialed.pop(port, None)
            socket.close(linger=LINGER_MS if answering else 0)

    def add_fd(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when a file descriptor is readable."""
        self._fds[fd] = callback
        self._poller.register(fd, zmq.POLLIN)

    def remove_fd(self, fd: int) -> None:
        if self._fds.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def on_tick(self, callback: Callable[[], None]) -> None:
        """Call back every TICK or so, in the loop's turn; what it sends leaves with that. It must not raise."""
        self._on_tick.append(callback)

    def wake(self) -> None:
        """Make a waiting `poll` return now. Callable from any thread."""
        with self._wake_lock:
            if not self._closed:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"w")

    # -- the loop

    def poll(self, timeout: float) -> None:
        """One turn: wait at most `timeout` seconds (and never past the next tick), take in what came, send what is
        due."""
        self.flush()
        wait = max(0.0, min(timeout, self._next_tick - self.hub.clock()))
        events = dict(self._poller.poll(int(wait * 1000 + 0.999) if wait else 0))
        for fd in [fd for fd in events if isinstance(fd, int)]:
            if fd in self._fds:
                self._fds[fd]()
        for port, socket in list(self._sockets.items()):
            if socket in events:
                self._receive(port, socket)
        self.flush()

    def flush(self) -> None:
        """Tick if due and hand everything outgoing to the sockets."""
        now = self.hub.clock()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._bury(now)
            self.hub.tick()
            for callback in self._on_tick:
                callback()
        self._send_all()

    def close(self, cause: PieError | None = None) -> None:
        """Say goodbye, let the last frames leave (half a second at most), release everything."""
        if self._closed:
            return
        answering = {peer.port for peer in self.hub.peers()}
        self.hub.close(cause or PeerLost(f"{self.hub.identity.kind} {self.hub.identity.name} is shutting down"))
        self._send_all()
        with self._wake_lock:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)
        for watching in self._watches.values():
            os.close(watching.fd)
        self._watches.clear()
        for port, socket in self._sockets.items():
            socket.close(linger=LINGER_MS if port in answering else 0)
        self._sockets.clear()
        if self._owns_context:
            self._context.term()

    # -- inside

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        socket.setsockopt(zmq.MAXMSGSIZE, max(MAX_FRAME_BYTES, MAX_BODY_BYTES))
        return socket

    def _add(self, port: str, socket: zmq.Socket[bytes]) -> None:
        self._sockets[port] = socket
        self._poller.register(socket, zmq.POLLIN)

    def _remove(self, port: str, socket: zmq.Socket[bytes]) -> None:
        del self._sockets[port]
        self._poller.unregister(socket)

    def _receive(self, port: str, socket: zmq.Socket[bytes]) -> bool:
        """Take in up to BATCH messages; True if the socket was drained."""
        router = port in self._routers
        for _ in range(BATCH):
            if not _is_readable(socket):
                return True
            try:
                parts = _receive_parts(socket)
            except zmq.Again:
                return True
            route = parts.pop(0) if router else b""
            if parts and not parts[0]:
                parts.pop(0)
            self.hub.receive(port, route, parts)
            if self._sockets.get(port) is not socket:
                return True
        return False

    def _send_all(self) -> None:
        for item in self.hub.outgoing():
            socket = self._sockets.get(item.port)
            if socket is None:
                continue
            frames: Sequence[Buffer] = (
                [item.route, b"", *item.frames] if item.port in self._routers else [b"", *item.frames]
            )
            try:
                _send_parts(socket, frames)
            except zmq.Again:
                pass  # the fuse blew: the link's numbers find and repair the gap
            except zmq.ZMQError as exc:
                log.warning("send failed", port=item.port, reason=str(exc))
            self._touched(item.port)

    def _touched(self, port: str) -> None:
        """Something was sent on a port."""

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _watch_peer(self, peer: Peer) -> None:
        who = peer.identity
        if not who.host or who.host != self.hub.identity.host or who.pid == self.hub.identity.pid:
            return
        fd = watch(who.pid)
        if fd is not None:
            self._watches[id(peer)] = _Watch(peer, fd)
            self.add_fd(fd, lambda: self._peer_died(peer))

    def _peer_died(self, peer: Peer) -> None:
        watching = self._watches.get(id(peer))
        if watching is not None and watching.dead_at is None:
            watching.dead_at = self.hub.clock()
            self._next_tick = min(self._next_tick, watching.dead_at + DEATH_GRACE)
            self.remove_fd(watching.fd)

    def _bury(self, now: float) -> None:
        for watching in list(self._watches.values()):
            if watching.dead_at is not None and now - watching.dead_at >= DEATH_GRACE:
                who = watching.peer
                self.hub.lost(who, PeerLost(f"{who} (pid {who.identity.pid}) has died"))
                self._forget_peer(who, PeerLost(""))

    def _forget_peer(self, peer: Peer, cause: PieError) -> None:
        watching = self._watches.pop(id(peer), None)
        if watching is not None:
            self.remove_fd(watching.fd)
            os.close(watching.fd)


class AsyncTransport(Transport):
    """The same under asyncio: call `start()` inside the loop; `flush()` after sending outside of a callback."""

    def __init__(self, hub: Hub, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._turning = False
        self._unread: set[str] = set()
        """Ports whose sockets must be looked at: their file descriptor has signalled, or something was sent."""
        super().__init__(hub, context)

    def start(self) -> None:
        """Attach to the running loop."""
        self._loop = asyncio.get_running_loop()
        for port, socket in self._sockets.items():
            self._attach(port, socket)
        for fd, callback in self._fds.items():
            self._loop.add_reader(fd, self._on_fd, callback)
        self._turn()

    async def call(
        self,
        to: Peer | str,
        message: Request[R],
        *,
        timeout: float,  # noqa: ASYNC109 - the deadline travels with the request
        buffers: Sequence[Buffer] = (),
    ) -> Answer[R]:
        """Ask and wait for the answer; `.value()` raises its error. Cancelling forgets the request."""
        future: asyncio.Future[Answer[R]] = asyncio.get_running_loop().create_future()

        def done(answer: Answer[R]) -> None:
            if not future.done():
                future.set_result(answer)

        number = self.hub.request(to, message, done, timeout=timeout, buffers=buffers)
        self.soon()
        try:
            return await future
        finally:
            self.hub.cancel(number)

    def soon(self) -> None:
        """Send what is outgoing in this turn of the loop, together with what else comes up in it."""
        if self._loop is not None and not self._scheduled and not self._turning:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def add_fd(self, fd: int, callback: Callable[[], None]) -> None:
        super().add_fd(fd, callback)
        if self._loop is not None:
            self._loop.add_reader(fd, self._on_fd, callback)

    def remove_fd(self, fd: int) -> None:
        if fd in self._fds and self._loop is not None:
            self._loop.remove_reader(fd)
        super().remove_fd(fd)

    def close(self, cause: PieError | None = None) -> None:
        if self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            for fd in list(self._fds):
                self._loop.remove_reader(fd)
            for socket in self._sockets.values():
                self._loop.remove_reader(_fd(socket))
            self._loop = None
        super().close(cause)

    def _add(self, port: str, socket: zmq.Socket[bytes]) -> None:
        super()._add(port, socket)
        if self._loop is not None:
            self._attach(port, socket)

    def _remove(self, port: str, socket: zmq.Socket[bytes]) -> None:
        if self._loop is not None:
            self._loop.remove_reader(_fd(socket))
        self._unread.discard(port)
        super()._remove(port, socket)

    def _attach(self, port: str, socket: zmq.Socket[bytes]) -> None:
        if self._loop is not None:
            self._loop.add_reader(_fd(socket), self._signalled, port)
            self._unread.add(port)
            self.soon()

    def _signalled(self, port: str) -> None:
        self._unread.add(port)
        if not self._scheduled:
            self._turn()

    def _touched(self, port: str) -> None:
        self._unread.add(port)
        self.soon()

    def _on_fd(self, callback: Callable[[], None]) -> None:
        callback()
        self.soon()

    def _turn(self) -> None:
        # A ZeroMQ file descriptor signals edges: a socket must be read until empty, also after each send.
        self._scheduled = False
        if self._loop is None:
            return
        self._turning = True
        try:
            for port in [port for port in self._sockets if port in self._unread]:
                socket = self._sockets.get(port)
                if socket is None or self._receive(port, socket):
                    self._unread.discard(port)
            self.flush()
            self._unread = {
                port for port in self._unread if port in self._sockets and _is_readable(self._sockets[port])
            }
        finally:
            self._turning = False
        if self._unread:
            self.soon()
        self._watch_clock()

    def _watch_clock(self) -> None:
        """Have a turn at the next tick. The timer is left alone unless it would be late: most turns move the tick on,
        and one that comes too early does nothing but wait again."""
        if self._loop is None:
            return
        wait = max(0.001, self._next_tick - self.hub.clock())
        due = self._loop.time() + wait
        if self._timer is not None and self._timer.when() <= due + 0.001:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self.hub.clock() >= self._next_tick:
            self._turn()
        else:
            self._watch_clock()
