"""The seam between the client and the outside: one method that connects a hub to a gateway."""

from __future__ import annotations

import os
from typing import Protocol

from pie_wire.config import pie_home
from pie_wire.hub import Hub
from pie_wire.transport import AsyncTransport

GATEWAY = "gateway"
"""The port a client dials."""


class Carrier(Protocol):
    """Moves frames between a hub and a gateway until closed."""

    def soon(self) -> None:
        """The hub has something to send."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    """How a client reaches a gateway: ZeroMQ, or something in the same process for tests."""

    def open(self, hub: Hub) -> Carrier:
        """Dial port `gateway` of the hub and carry its frames, in the running loop."""
        ...


class ZmqTransport:
    """A gateway behind a ZeroMQ endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def open(self, hub: Hub) -> Carrier:
        carrier = AsyncTransport(hub)
        carrier.dial(GATEWAY, self.endpoint)
        carrier.start()
        return carrier


def default_endpoint() -> str:
    """`PIE_ENDPOINT`, or the gateway of the stack in the Pie home."""
    return os.environ.get("PIE_ENDPOINT") or f"ipc://{pie_home() / 'run' / 'gateway.sock'}"
