"""Frames between one client and a FakePie, moved in the turns of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pie_wire.codec import Buffer
from pie_wire.errors import PeerLost
from pie_wire.hub import Hub, Outgoing

from pie_zmq.transport import GATEWAY

if TYPE_CHECKING:
    from pie_zmq.testing.fake_pie import FakePie

TICK = 0.05


class FakeCarrier:
    """Moves frames between one client's hub and the gateway's, in the turns of the loop."""

    def __init__(self, fake: FakePie, hub: Hub, route: bytes) -> None:
        self._fake = fake
        self._hub = hub
        self._route = route
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._closed = False
        self._timer = self._loop.call_later(TICK, self._tick)

    def soon(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def lost(self) -> None:
        """The client sees its gateway die."""
        for peer in self._hub.peers():
            self._hub.lost(peer, PeerLost("the gateway has died"))
        self.soon()

    def close(self) -> None:
        if not self._closed:
            self._hub.close(PeerLost("the client is closed"))
            self._exchange()
            self._closed = True
            self._timer.cancel()

    def deliver(self, item: Outgoing) -> None:
        """Frames for this client, if it is the one meant."""
        if item.route == self._route and not self._closed:
            self._hub.receive(GATEWAY, b"", _copied(item.frames))
            self.soon()

    def _tick(self) -> None:
        self._hub.tick()
        self._fake.hub.tick()
        self.soon()
        self._timer = self._loop.call_later(TICK, self._tick)

    def _turn(self) -> None:
        self._scheduled = False
        self._exchange()

    def _exchange(self) -> None:
        for item in self._hub.outgoing():
            self._fake.hub.receive("clients", self._route, _copied(item.frames))
        self._fake.dispatch()


def _copied(frames: list[Buffer]) -> list[bytes]:
    return [bytes(frame) for frame in frames]
