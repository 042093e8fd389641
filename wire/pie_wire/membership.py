"""A service's membership: its epoch and lease from kvstore, and the list of all members. No I/O."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from pie_wire.errors import PeerLost, PieError, StaleEpoch
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import Join, Joined, Leave, Members, Renew

KVSTORE = "kvstore"
"""The port on which every service dials kvstore."""

JOIN_TIMEOUT = 3.0
RENEW_EVERY = 1.0

log = structlog.get_logger("pie.membership")

Facts = dict[str, str | int | float]


class Membership:
    """Joins on every new link to kvstore, renews each second, mirrors the member list.

    While kvstore is away the last list stays in force: a service does not lose its peers because the registry is
    down. A member listed with a newer incarnation has replaced the older one, whose links end at once.
    """

    def __init__(self, hub: Hub, *, endpoint: str = "", info: Facts | None = None) -> None:
        self._hub = hub
        self._endpoint = endpoint
        self._info: Facts = dict(info or {})
        self._stats: Callable[[], Facts] = dict
        self._version = 0
        self._changed: list[Callable[[list[MemberInfo]], None]] = []
        self._next_renew = 0.0
        self._retry_at = 0.0
        self._asking = False
        self.joined = False
        """True while kvstore knows this incarnation on the current link."""
        self.members: list[MemberInfo] = []
        self.error: PieError | None = None
        """Why the last attempt to join failed."""
        hub.on_up(self._up)
        hub.on_down(self._down)
        hub.on(Members, self._members)

    def report(self, stats: Callable[[], Facts]) -> None:
        """Where to take the load figures that each renewal carries."""
        self._stats = stats

    def update(self, **info: str | int | float) -> None:
        """Change fixed facts (the model once loaded, the HTTP address once bound) and tell kvstore."""
        self._info.update(info)
        if self.joined or self._asking:
            self.joined = False
            self._retry_at = 0.0

    def on_change(self, callback: Callable[[list[MemberInfo]], None]) -> None:
        """Called with all members whenever the list changes."""
        self._changed.append(callback)

    def of_kind(self, kind: str) -> list[MemberInfo]:
        """Members of a kind that are not lost."""
        return [m for m in self.members if m.kind == kind and m.state != "lost"]

    @property
    def is_superseded(self) -> bool:
        """Another incarnation has this member's name: this one must stop. kvstore says so, to the greeting or to the
        join: a successor greets before it has its epoch."""
        return isinstance(self.error, StaleEpoch) or isinstance(self._hub.refusal(KVSTORE), StaleEpoch)

    def tick(self) -> None:
        """Join when due, renew when joined."""
        peer = self._hub.peer(KVSTORE)
        now = self._hub.clock()
        if peer is None:
            return
        if self.joined and now >= self._next_renew:
            self._next_renew = now + RENEW_EVERY
            self._hub.send(peer, Renew(self._hub.identity.epoch, self._stats()))
        elif not self.joined and not self._asking and now >= self._retry_at:
            self._join(peer)

    def leave(self) -> None:
        """Give the lease back; the caller flushes the hub afterwards."""
        peer = self._hub.peer(KVSTORE)
        if peer is not None and self.joined:
            self._hub.request(peer, Leave(self._hub.identity.epoch), lambda _: None, timeout=1.0)

    def _join(self, peer: Peer) -> None:
        me = self._hub.identity
        self._retry_at = self._hub.clock() + RENEW_EVERY
        member = MemberInfo(
            kind=me.kind,
            name=me.name,
            epoch=me.epoch,
            endpoint=self._endpoint,
            pid=me.pid,
            host=me.host,
            incarnation=me.incarnation,
            info=dict(self._info),
            stats=self._stats(),
        )
        try:
            self._hub.request(peer, Join(member), self._on_joined, timeout=JOIN_TIMEOUT)
        except PieError as exc:
            self.error = exc
            log.warning("cannot ask to join", code=exc.code, reason=exc.message)
        else:
            self._asking = True

    def _on_joined(self, answer: Answer[Joined]) -> None:
        superseded = self._asking and self._retry_at == 0.0  # facts changed while the question was under way
        self._asking = False
        if answer.error is not None:
            self.error = answer.error
            log.warning("cannot join", code=answer.error.code, reason=answer.error.message)
            return
        self.error = None
        joined = answer.value()
        self._hub.identity = msgspec.structs.replace(self._hub.identity, epoch=joined.epoch)
        self.joined = not superseded
        self._next_renew = self._hub.clock()

    def _up(self, peer: Peer) -> None:
        if peer.port == KVSTORE:
            self.joined = self._asking = False
            self._version = 0
            self._retry_at = 0.0

    def _down(self, peer: Peer, cause: PieError) -> None:
        if peer.port == KVSTORE:
            self.joined = self._asking = False

    def _members(self, incoming: Incoming[Members]) -> None:
        if incoming.message.version <= self._version:
            return
        self._version = incoming.message.version
        before = {(m.kind, m.name): m for m in self.members}
        self.members = incoming.message.members
        for member in self.members:
            old = before.get((member.kind, member.name))
            if old is not None and old.incarnation != member.incarnation and old.epoch < member.epoch:
                self._bury(old)
        for callback in self._changed:
            callback(self.members)

    def _bury(self, replaced: MemberInfo) -> None:
        """A new incarnation is the old one's death: on another machine, where no process can be watched, that is known
        long before the silence of its links says so."""
        for peer in self._hub.peers():
            if (peer.kind, peer.name, peer.identity.incarnation) == (
                replaced.kind,
                replaced.name,
                replaced.incarnation,
            ):
                self._hub.lost(peer, PeerLost(f"{peer} was replaced by a new incarnation"))
