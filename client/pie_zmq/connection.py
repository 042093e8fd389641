"""One link to a gateway under asyncio: requests with deadlines, and what happens when the link goes and comes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from pie_wire.codec import Buffer
from pie_wire.errors import Cancelled, PieError, Unavailable, VersionMismatch
from pie_wire.hub import Answer, Hub, Peer
from pie_wire.messages.base import Message, Push, Request
from pie_wire.process import identity

from pie_zmq.acknowledgements import Acknowledgements
from pie_zmq.transport import GATEWAY, Carrier, Transport

R = TypeVar("R", bound=Message)

LOOK_EVERY = 0.05


class Connection:
    """Owns the hub and its carrier. Use it in the loop in which `open` was called."""

    def __init__(self, transport: Transport) -> None:
        self.hub = Hub(identity("client", f"client-{secrets.token_hex(4)}"), time.monotonic)
        self._transport = transport
        self._carrier: Carrier | None = None
        self._up: list[Callable[[], None]] = []
        self._down: list[Callable[[PieError], None]] = []
        self.acknowledgements = Acknowledgements(self.tell)
        self.hub.on_up(self._opened)
        self.hub.on_down(self._closed)

    @property
    def is_up(self) -> bool:
        return self.hub.peer(GATEWAY) is not None

    @property
    def session(self) -> int:
        """Number of the current session, 0 without one."""
        peer = self.hub.peer(GATEWAY)
        return peer.session if peer else 0

    def on_up(self, callback: Callable[[], None]) -> None:
        """Called when a session with a gateway opens."""
        self._up.append(callback)

    def on_down(self, callback: Callable[[PieError], None]) -> None:
        """Called when one ends, after its requests have failed."""
        self._down.append(callback)

    async def open(self, timeout: float) -> None:  # noqa: ASYNC109 - part of the public face
        """Connect.

        Raises:
            Unavailable: nobody answers in time. VersionMismatch, or what else the gateway refuses with.
        """
        self._carrier = self._transport.open(self.hub)
        deadline = time.monotonic() + timeout
        while not self.is_up:
            refusal = self.hub.refusal(GATEWAY)
            if refusal is not None and (isinstance(refusal, VersionMismatch) or time.monotonic() >= deadline):
                raise refusal
            if time.monotonic() >= deadline:
                raise Unavailable(f"no gateway answered within {timeout:g} s: is Pie running? start it with `pie up`")
            await asyncio.sleep(LOOK_EVERY)

    async def ask(
        self,
        request: Request[R],
        *,
        timeout: float,  # noqa: ASYNC109 - the deadline travels with the request
        buffers: Sequence[Buffer] = (),
    ) -> R:
        """Send a request, once there is a link, and wait for its reply.

        Raises:
            DeadlineExceeded, Unavailable: no answer, or no gateway, in time. PeerLost: the link went while the answer
            was under way, so that it is unknown whether the request was carried out. And what the gateway answers.
        """
        self._require_open()
        future: asyncio.Future[Answer[R]] = asyncio.get_running_loop().create_future()

        def done(answer: Answer[R]) -> None:
            if not future.done():
                future.set_result(answer)

        number = self.hub.request(GATEWAY, request, done, timeout=timeout, buffers=buffers)
        self.soon()
        try:
            return (await future).value()
        finally:
            self.hub.cancel(number)

    def tell(self, push: Push) -> None:
        """Send a message without a reply; dropped while there is no link."""
        peer = self.hub.peer(GATEWAY)
        if peer is not None:
            self.hub.send(peer, push)
            self.soon()

    def close(self) -> None:
        self.acknowledgements.flush()
        if self._carrier is not None:
            self._carrier.close()
            self._carrier = None

    def _require_open(self) -> None:
        if self._carrier is None:
            raise Cancelled("the client is closed")

    def soon(self) -> None:
        """What the hub has to send leaves soon."""
        if self._carrier is not None:
            self._carrier.soon()

    def _opened(self, peer: Peer) -> None:
        for callback in self._up:
            callback()

    def _closed(self, peer: Peer, cause: PieError) -> None:
        for callback in self._down:
            callback(cause)
