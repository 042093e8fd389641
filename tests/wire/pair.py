"""A dialing and a listening hub in one process, with a perfect network and a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pie_wire.codec import Buffer
from pie_wire.errors import PieError
from pie_wire.hub import Hub, Peer
from pie_wire.messages.link import Identity

PORT = "x"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class End:
    """A hub with a record of what its callbacks were told, in order."""

    def __init__(self, clock: Clock, kind: str, *, epoch: int = 0, seed: int = 0, name: str = "") -> None:
        incarnation = f"{kind}-{name}-{epoch}-{seed}"
        self.hub = Hub(Identity(kind, name or kind, epoch, incarnation), clock, rng=random.Random(seed))
        self.log: list[tuple[str, Peer | PieError]] = []
        self.hub.on_up(lambda peer: self.log.append(("up", peer)))
        self.hub.on_down(lambda peer, cause: self.log.append(("down", cause)))

    @property
    def said(self) -> list[str]:
        return [what for what, _ in self.log]

    @property
    def cause(self) -> PieError:
        """Of the last end of a session."""
        causes = [cause for what, cause in self.log if what == "down" and isinstance(cause, PieError)]
        return causes[-1]


class Pair:
    """One acceptor and any number of dialers, each with a route of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.acceptor = End(self.clock, "gateway", seed=1)
        self.acceptor.hub.listen(PORT)
        self.dialers: dict[bytes, End] = {}
        self.dialer = self.dial(b"r0")

    def dial(self, route: bytes, kind: str = "client", *, epoch: int = 0, name: str = "") -> End:
        end = End(self.clock, kind, epoch=epoch, seed=len(self.dialers) + 2, name=name)
        end.hub.dial(PORT)
        self.dialers[route] = end
        return end

    def exchange(self) -> bool:
        """Carry over what is outgoing now; True if there was something."""
        carried: list[tuple[End, bytes, Sequence[Buffer]]] = []
        for route, end in self.dialers.items():
            carried += [(self.acceptor, route, item.frames) for item in end.hub.outgoing()]
        for item in self.acceptor.hub.outgoing():
            if item.route in self.dialers:
                carried.append((self.dialers[item.route], b"", item.frames))
        for end, route, frames in carried:
            end.hub.receive(PORT, route, frames)
        return bool(carried)

    def run(self, seconds: float = 0.5) -> None:
        """Let time pass, everything being carried over at once."""
        for _ in range(max(1, round(seconds / 0.05))):
            self.clock.now += 0.05
            for end in (self.acceptor, *self.dialers.values()):
                end.hub.tick()
            while self.exchange():
                pass

    def up(self) -> tuple[Peer, Peer]:
        """(the acceptor as the first dialer sees it, the first dialer as the acceptor sees it)"""
        self.run()
        there = self.dialer.hub.peer(PORT)
        here = next(peer for peer in self.acceptor.hub.peers() if peer.route == b"r0")
        if there is None:
            raise RuntimeError("the link did not come up")
        return there, here
