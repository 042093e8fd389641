"""All runners: what has arrived from them since the last step border, and what the step has for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import structlog
from pie_wire.errors import InternalError, Overloaded, PieError, ProtocolError
from pie_wire.hub import Hub, Incoming, Peer
from pie_wire.messages.engine import Consume, GetStanding, Ops
from pie_wire.messages.runner import Pressure

from pie_engine.links.inbox import Inbox
from pie_engine.links.runner_link import RunnerLink
from pie_engine.passes.page_moves import Buffer

log = structlog.get_logger("pie.engine")

Message: TypeAlias = tuple[Ops, Sequence[Buffer]]


class RunnerLinks:
    """The hub's handlers only fill the inbox; the rest is called at step borders."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._links: dict[Peer, RunnerLink] = {}
        self._inbox: Inbox[Message | Incoming[GetStanding]] = Inbox()
        hub.on(Ops, self._receive)
        hub.on(GetStanding, self._get_standing)
        hub.on_down(self._down)

    def __bool__(self) -> bool:
        """Something has arrived."""
        return bool(self._inbox)

    def __len__(self) -> int:
        """Runners that have sent operations."""
        return len(self._links)

    def drain(self) -> Iterator[tuple[Peer, Message | Incoming[GetStanding] | None]]:
        """What has arrived, oldest first; None is a peer's end."""
        return self._inbox.drain()

    def of(self, peer: Peer) -> RunnerLink | None:
        """The runner behind a peer, if it has sent operations."""
        return self._links.get(peer)

    def take(self, peer: Peer, ops: Ops, pressure: Pressure | None) -> RunnerLink | None:
        """The runner that sent these operations; None when they are not to be carried out. A new one learns of the
        `pressure`, if there is any."""
        link = self._links.get(peer)
        if link is None:
            if not peer.alive:
                return None
            link = self._links[peer] = RunnerLink(peer)
            if pressure is not None:
                link.outbox.pressure(pressure)
        if ops.first != link.last + 1:
            self._hub.lost(peer, ProtocolError(f"operations from {ops.first} on, but {link.last + 1} comes next"))
            return None
        link.awaits = link.awaits or not all(isinstance(op, Consume) for op in ops.ops)
        return link

    def remove(self, peer: Peer) -> RunnerLink | None:
        """The peer has ended; returns the runner it was, whose contexts the caller frees."""
        return self._links.pop(peer, None)

    def announce(self, pressure: Pressure) -> None:
        """Tell all of them."""
        for link in self._links.values():
            link.outbox.pressure(pressure)

    def send(self, *, before_pass: bool = False) -> None:
        """One message to each runner that the step has something for, more only where one would be too large.
        `before_pass`: whoever waits for nothing is acknowledged with what comes of the pass, or when there is none."""
        for peer, link in self._links.items():
            try:
                steps = link.outbox.take(link.acked, alone=link.awaits or not before_pass)
            except Exception as exc:
                log.error("a bug, contained: it ended the link of one runner", runner=peer.name, exc_info=exc)
                self._hub.lost(peer, InternalError(f"a bug of the engine ended this link: {type(exc).__name__}"))
                continue
            if steps:
                link.awaits = False
            for step, buffers in steps:
                self._hub.send(peer, step, buffers=buffers)

    def _receive(self, incoming: Incoming[Ops]) -> None:
        try:
            message = incoming.message
            self._inbox.put(incoming.peer, (message, incoming.buffers), operations=len(message.ops), size=incoming.size)
        except Overloaded as exc:
            # Operations are numbered and pipelined: dropping one would break all behind it, so the link must go.
            self._hub.lost(incoming.peer, exc)

    def _get_standing(self, incoming: Incoming[GetStanding]) -> None:
        self._inbox.put(incoming.peer, incoming, operations=1, size=incoming.size)

    def _down(self, peer: Peer, _: PieError) -> None:
        self._inbox.ended(peer)
