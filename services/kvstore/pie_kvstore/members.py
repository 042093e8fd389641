"""The member table: epochs, leases, and which members are up, stuck or lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
from pie_wire.errors import BadField, PieError, StaleEpoch, StoreUnavailable
from pie_wire.hub import Peer
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.link import Identity

from pie_kvstore import names
from pie_kvstore.schema import LOST_SECONDS
from pie_kvstore.store import Store

Stats = dict[str, str | int | float]
Key = tuple[str, str]
"""(kind, name)"""

MAX_FACTS = 64
STALL = 1.0
"""A tick this late means that kvstore itself slept, so that leases must not be charged for it."""

log = structlog.get_logger("pie.kvstore")


@dataclass
class Member:
    """A lease and who holds it."""

    info: MemberInfo
    expires: float
    """On the core's clock: end of the lease, or for a lost member the time to forget it."""
    peer: Peer | None = None
    """Its live link; None during a reconnect, and after a restart of kvstore until it joins again."""

    @property
    def key(self) -> Key:
        return (self.info.kind, self.info.name)


class MemberTable:
    """All members. A durable row backs each; judgement of leases is in memory, on the core's clock.

    `version` grows with each change that other members must hear of. `on_dead` is told each incarnation whose epoch
    has ended for good.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        *,
        ttl: float,
        is_dead: Callable[[Identity], bool],
        on_dead: Callable[[MemberInfo], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl = ttl
        self._is_dead = is_dead
        self._on_dead = on_dead
        self._members: dict[Key, Member] = {}
        self._unwritten: set[Key] = set()
        self._outages = store.outages
        self._highest_epoch = 0
        self._judge_from = clock() + ttl
        self._judged = clock()
        self.boot = 0
        """How many times kvstore has started on this Redis."""
        self.version = 0

    def load(self) -> None:
        """Take up what the last run left. Nobody of it is judged until one lease from now, except processes that are
        known to be dead. Raises StoreUnavailable."""
        with self._store.use() as redis:
            boot = redis.incr(self._store.keys.boots)
            rows = redis.hvals(self._store.keys.members)
            self._highest_epoch = int(redis.get(self._store.keys.epochs) or 0)
        self.boot = boot
        self.version = boot << 32
        for row in rows:
            info = msgspec.json.decode(row, type=MemberInfo)
            self._highest_epoch = max(self._highest_epoch, info.epoch)
            grace = LOST_SECONDS if info.state == "lost" else self._ttl
            member = Member(info, self._clock() + grace)
            self._members[member.key] = member
            if self._is_dead(_identity(info)):
                self._remove(member)

    def get(self, kind: str, name: str) -> MemberInfo | None:
        """A member that has not lost its lease."""
        member = self._members.get((kind, name))
        return member.info if member and member.info.state != "lost" else None

    def listed(self) -> list[MemberInfo]:
        """All members that hold a lease, by kind and name."""
        return [m.info for m in self._sorted() if m.info.state != "lost"]

    def of(self, peer: Peer) -> MemberInfo | None:
        """The member at the other end of a link, if it holds a lease on it."""
        member = self._members.get((peer.kind, peer.name))
        return member.info if member is not None and member.peer is peer else None

    def everyone(self) -> list[MemberInfo]:
        """`listed`, and those that lost their lease lately."""
        return [m.info for m in self._sorted()]

    def peers(self) -> list[Peer]:
        """The live links of all members."""
        return [m.peer for m in self._members.values() if m.peer is not None and m.peer.alive]

    def join(self, info: MemberInfo, peer: Peer) -> tuple[int, Peer | None]:
        """Give, or give back, an epoch and a lease; returns the epoch and the link of an incarnation now replaced.

        Raises:
            BadField: the row does not describe the peer. StaleEpoch: a newer incarnation has the name.
            StoreUnavailable: a new epoch cannot be recorded.
        """
        if (info.kind, info.name) != (peer.kind, peer.name) or info.incarnation != peer.identity.incarnation:
            raise BadField("a member joins under the kind, name and incarnation of its link")
        names.member(info.kind)
        names.member(info.name)
        if not info.incarnation:
            raise BadField("a member needs an incarnation")
        if len(info.info) > MAX_FACTS or len(info.stats) > MAX_FACTS:
            raise BadField(f"a member has at most {MAX_FACTS} facts and {MAX_FACTS} stats")
        old = self._members.get((info.kind, info.name))
        replaced: Peer | None = None
        if old is not None and old.info.incarnation == info.incarnation:
            epoch = old.info.epoch
        elif old is not None and 0 < info.epoch < old.info.epoch:
            raise StaleEpoch(f"{info.kind} {info.name} has been replaced by a newer incarnation: this one must stop")
        elif old is None and info.epoch:
            epoch = info.epoch  # its row was lost, not its lease: nobody else can hold this number
        else:
            epoch = self._issue_epoch()
            if old is not None:
                replaced = old.peer if old.peer is not peer else None
                self._on_dead(old.info)
        self._highest_epoch = max(self._highest_epoch, epoch)
        joined = msgspec.structs.replace(info, epoch=epoch, state="up")
        member = Member(joined, self._clock() + self._ttl, peer)
        known = old.info if old else None
        self._members[member.key] = member
        if known is None or _facts(known) != _facts(joined):
            self._changed(member)
        return epoch, replaced

    def renew(self, peer: Peer, epoch: int, stats: Stats) -> None:
        """Prolong a lease. A push of an older epoch, or of a link that has not joined, raises StaleEpoch."""
        member = self._of(peer, epoch)
        member.expires = self._clock() + self._ttl
        if len(stats) <= MAX_FACTS:
            member.info = msgspec.structs.replace(member.info, stats=stats)

    def leave(self, peer: Peer, epoch: int) -> None:
        """Give a lease back. Raises StaleEpoch like `renew`."""
        self._remove(self._of(peer, epoch))

    def link_down(self, peer: Peer) -> None:
        """A link has ended. A dead process is removed at once; one that may be alive has its lease left to
        reconnect in."""
        for member in list(self._members.values()):
            if member.peer is peer:
                member.peer = None
                if self._is_dead(peer.identity):
                    self._remove(member)
                else:
                    self._set_state(member, "stuck")

    def judge(self, is_stuck: Callable[[Peer], bool]) -> list[Peer]:
        """Time has passed: mark the stuck, take the lease of the silent, forget the long lost. Returns links whose
        member lost its lease, for the caller to end: their service then joins anew."""
        now = self._clock()
        slept, self._judged = now - self._judged, now
        if slept > STALL:
            for member in self._members.values():
                member.expires += slept
        ended: list[Peer] = []
        for member in list(self._members.values()):
            if member.info.state == "lost":
                if now >= member.expires:
                    self._remove(member)
            elif now >= member.expires and now >= self._judge_from:
                log.warning("lease lost", member="/".join(member.key), epoch=member.info.epoch)
                if member.peer is not None:
                    ended.append(member.peer)
                member.peer, member.expires = None, now + LOST_SECONDS
                self._on_dead(member.info)
                self._set_state(member, "lost")
            elif member.peer is not None:
                self._set_state(member, "stuck" if is_stuck(member.peer) else "up")
            elif self._is_dead(_identity(member.info)):
                self._remove(member)
        return ended

    def write_back(self) -> None:
        """Write rows that an outage of Redis kept from being written; all of them, since it may have lost any."""
        if self._outages != self._store.outages and self._store.available:
            self._unwritten.update(self._members)
        if not self._unwritten or not self._store.available:
            return
        outages = self._store.outages
        try:
            self._write()
        except StoreUnavailable:
            return
        self._outages = outages

    def _write(self) -> None:
        with self._store.use() as redis:
            pipe = redis.pipeline(transaction=True)
            for key in self._unwritten:
                member = self._members.get(key)
                if member is None:
                    pipe.hdel(self._store.keys.members, "/".join(key))
                else:
                    row = msgspec.json.encode(msgspec.structs.replace(member.info, stats={}))
                    pipe.hset(self._store.keys.members, "/".join(key), row)
            pipe.execute()
        self._unwritten.clear()

    def _issue_epoch(self) -> int:
        with self._store.use() as redis:
            epoch = redis.incr(self._store.keys.epochs)
            if epoch <= self._highest_epoch:  # a Redis that forgot: epochs must grow all the same
                epoch = self._highest_epoch + 1
                redis.set(self._store.keys.epochs, epoch)
        return epoch

    def _of(self, peer: Peer, epoch: int) -> Member:
        member = self._members.get((peer.kind, peer.name))
        if member is None or member.peer is not peer or member.info.epoch != epoch:
            raise StaleEpoch(f"{peer} holds no lease of epoch {epoch}: join again")
        return member

    def _set_state(self, member: Member, state: str) -> None:
        if member.info.state != state:
            member.info = msgspec.structs.replace(member.info, state=state)
            log.info("member", member="/".join(member.key), state=state, epoch=member.info.epoch)
            self._changed(member)

    def _remove(self, member: Member) -> None:
        if self._members.pop(member.key, None) is None:
            return
        log.info("member", member="/".join(member.key), state="gone", epoch=member.info.epoch)
        if member.info.state != "lost":
            self._on_dead(member.info)
        self._changed(member)

    def _changed(self, member: Member) -> None:
        self.version += 1
        self._unwritten.add(member.key)
        if self._store.available:
            try:
                self._write()
            except PieError as exc:
                log.warning("member row not written yet", reason=exc.message)

    def _sorted(self) -> list[Member]:
        return [self._members[key] for key in sorted(self._members)]


def _facts(info: MemberInfo) -> MemberInfo:
    return msgspec.structs.replace(info, stats={})


def _identity(info: MemberInfo) -> Identity:
    return Identity(info.kind, info.name, info.epoch, info.incarnation, info.pid, info.host)
