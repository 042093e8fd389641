"""A lossy network in one process: real hubs and cores, simulated time, frames that may be lost, doubled or late.

Order is kept within one link, as ZeroMQ keeps it within a connection, and nowhere else. A killed node takes its
unsent frames with it; frames already under way may still arrive, also at its successor.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pie_wire.errors import PeerLost
from pie_wire.hub import Hub
from pie_wire.link import Timing
from pie_wire.messages.link import Identity

TICK = 0.05


class Core(Protocol):
    """What the network drives besides the hub."""

    def tick(self) -> None: ...


@dataclass(frozen=True)
class Faults:
    """Per-frame chances and delays in seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.002
    jitter: float = 0.0


@dataclass
class Node:
    """One process incarnation."""

    name: str
    hub: Hub
    core: Core | None = None
    alive: bool = True
    stopped: bool = False
    """As by SIGSTOP: takes nothing in, sends nothing, ticks not."""
    dials: dict[str, tuple[str, str]] = field(default_factory=dict)
    """port -> (name of the node, its listening port)"""
    inbox: list[tuple[str, bytes, list[bytes]]] = field(default_factory=list)
    """What arrived while stopped."""


class Network:
    """Owns simulated time and all frames under way."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.rng = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 1000.0
        self.nodes: dict[str, Node] = {}
        self.cut: set[frozenset[str]] = set()
        """Pairs of names between which nothing passes now."""
        self._serial = itertools.count()
        self._incarnations = itertools.count(1)
        self._flight: list[tuple[float, int, str, str, bytes, list[bytes]]] = []
        self._last_arrival: dict[tuple[str, str, bytes, str], float] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    @property
    def is_whole(self) -> bool:
        """Nothing is cut, stopped or dead."""
        return not self.cut and all(node.alive and not node.stopped for node in self.nodes.values())

    def spawn(self, kind: str, name: str, *, timing: Timing | None = None) -> Node:
        """A new incarnation under this name; wire its ports, then set `core`."""
        serial = next(self._incarnations)
        identity = Identity(kind, name, 0, f"{name}-{serial}", 0, "")
        hub = Hub(identity, lambda: self.now, timing=timing, rng=random.Random(self.rng.getrandbits(64)))
        node = Node(name, hub)
        self.nodes[name] = node
        return node

    def dial(self, node: Node, port: str, to: str, listening: str) -> None:
        """Connect a dialed port to whichever incarnation bears the name `to`."""
        node.dials[port] = (to, listening)
        node.hub.dial(port)

    def kill(self, name: str, *, seen_after: float | None = 0.1) -> Node:
        """End a process at once. Others learn of it after `seen_after` seconds, or by silence (None)."""
        node = self.nodes[name]
        node.alive = False
        node.hub.outgoing()
        if seen_after is not None:
            incarnation = node.hub.identity.incarnation
            for other in list(self.nodes.values()):
                if other is not node:
                    self.later(seen_after, lambda other=other: self._tell(other, incarnation))
        return node

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do something at a simulated time."""
        heapq.heappush(self._later, (self.now + delay, next(self._serial), action))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stops early when `until` holds. Returns whether it did."""
        end = self.now + seconds
        while self.now < end:
            for node in list(self.nodes.values()):
                if node.alive and not node.stopped:
                    inbox, node.inbox = node.inbox, []
                    for port, route, frames in inbox:
                        node.hub.receive(port, route, frames)
                    node.hub.tick()
                    if node.core is not None:
                        node.core.tick()
            self._exchange(min(self.now + TICK, end))
            if until is not None and until():
                return True
        return until is not None and until()

    def _tell(self, node: Node, incarnation: str) -> None:
        for peer in node.hub.peers():
            if peer.identity.incarnation == incarnation:
                node.hub.lost(peer, PeerLost(f"{peer} has died"))

    def _exchange(self, until: float) -> None:
        """Deliver frames and run timers in time order up to `until`."""
        self._collect()
        while True:
            times = [queue[0][0] for queue in (self._flight, self._later) if queue]
            if not times or min(times) > until:
                break
            self.now = max(self.now, min(times))
            if self._later and self._later[0][0] <= self.now:
                heapq.heappop(self._later)[2]()
            elif self._flight:
                _, _, name, port, route, frames = heapq.heappop(self._flight)
                node = self.nodes.get(name)
                if node is not None and node.alive:
                    if node.stopped:  # stays in the socket
                        node.inbox.append((port, route, frames))
                    else:
                        node.hub.receive(port, route, frames)
            self._collect()
        self.now = until

    def _collect(self) -> None:
        for node in list(self.nodes.values()):
            if not node.alive or node.stopped:
                continue
            for item in node.hub.outgoing():
                if item.route:
                    name, _, port = item.route.decode().partition("|")
                    name, _, incarnation = name.partition("#")
                    target = self.nodes.get(name)
                    if target is None or target.hub.identity.incarnation != incarnation:
                        continue
                    self._transmit(node.name, name, port, b"", item.frames)
                else:
                    name, listening = node.dials[item.port]
                    route = f"{node.name}#{node.hub.identity.incarnation}|{item.port}".encode()
                    self._transmit(node.name, name, listening, route, item.frames)

    def _transmit(self, source: str, name: str, port: str, route: bytes, frames: list[bytes | memoryview]) -> None:
        if frozenset((source, name)) in self.cut or self.rng.random() < self.faults.drop:
            return
        copies = 2 if self.rng.random() < self.faults.duplicate else 1
        for _ in range(copies):
            at = self.now + self.faults.delay + self.rng.random() * self.faults.jitter
            self._put(at, name, port, route, [bytes(f) for f in frames], source)

    def _put(self, at: float, name: str, port: str, route: bytes, frames: list[bytes], source: str) -> None:
        link = (source, name, route, port)
        at = max(at, self._last_arrival.get(link, 0.0))
        self._last_arrival[link] = at
        heapq.heappush(self._flight, (at, next(self._serial), name, port, route, frames))
