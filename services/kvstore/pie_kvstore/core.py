"""kvstore as a state machine: messages and ticks in, Redis commands and messages out. No sockets, no clock of its own.

What crosses here, and who keeps it:

    every service -> Join, Renew, Leave, ListMembers     members.py    leases; Members is pushed on each change
    gateway       -> PutArtifact, GetArtifact, ...       artifacts.py  program bytes
    gateway       -> InstallProgram, GetProgram, ...     programs.py   name@version
    gateway       -> PutProcesses, ListProcessRows       processes.py  what a new gateway must know
    engine        -> PutPages                            pages.py      who holds which pages
    runner        -> PutSnapshot, GetSnapshot, ...       snapshots.py  named contexts
    runner        -> PutArtifact, GetArtifact            archives.py   what some of them need beside their tokens
    runner        -> PushMessage, PullMessage, ...       topics.py     messages between programs
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from pie_wire.errors import BadField, PeerLost, StaleEpoch, StoreUnavailable, Unsupported
from pie_wire.hub import Hub, Incoming, Peer
from pie_wire.messages import kvstore as kv
from pie_wire.messages.base import Done
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.link import Identity

from pie_kvstore import names
from pie_kvstore.archives import Archives
from pie_kvstore.artifacts import Artifacts
from pie_kvstore.members import MemberTable
from pie_kvstore.pages import PageRows
from pie_kvstore.processes import Processes
from pie_kvstore.programs import Programs
from pie_kvstore.queues import Queues
from pie_kvstore.schema import SCHEMA_VERSION, owner_key
from pie_kvstore.snapshots import Snapshots
from pie_kvstore.store import Redis, Store
from pie_kvstore.topics import Topics

PORT = "kvstore"
LEASE_SECONDS = 15.0
SNAPSHOT_BYTES = 1 << 30
HOUSEKEEPING = 5.0
"""Seconds between sweeps of expired rows."""

log = structlog.get_logger("pie.kvstore")


def _nobody_is_dead(who: Identity) -> bool:
    return False


class KvstoreCore:
    """Answers every message of `pie_wire.messages.kvstore` on a hub that listens on port `kvstore`.

    The hub's clock judges leases; `now` gives Unix seconds for the rows. `is_dead` says that a process is known to
    have ended, and must never say so of a living one. Redis must answer when a core is made; later outages make
    requests fail with StoreUnavailable and pass by themselves.
    """

    def __init__(
        self,
        hub: Hub,
        redis: Redis,
        *,
        prefix: str = "pie",
        snapshot_bytes: int = SNAPSHOT_BYTES,
        lease: float = LEASE_SECONDS,
        now: Callable[[], float] = time.time,
        is_dead: Callable[[Identity], bool] = _nobody_is_dead,
        topic_messages: int = 10_000,
        topic_bytes: int = 64 << 20,
        user_topics: int = 1000,
    ) -> None:
        """Raises StoreUnavailable: Redis is down. Unsupported: it holds the data of another version."""
        self.store = Store(redis, hub.clock, prefix=prefix)
        self.members = MemberTable(self.store, hub.clock, ttl=lease, is_dead=is_dead, on_dead=self._on_dead)
        self.artifacts = Artifacts(self.store)
        self.programs = Programs(self.store, self.artifacts, now)
        self.processes = Processes(self.store, now)
        self.pages = PageRows(self.store)
        self.archives = Archives(self.store, self.artifacts, now, snapshot_bytes)
        self.snapshots = Snapshots(self.store, self.archives, now)
        queues = Queues(self.store, messages=topic_messages, size=topic_bytes, topics=user_topics)
        self.topics = Topics(hub, queues, self.members.of, now)
        self.facts: MemberInfo | None = None
        """This kvstore's own line among the members; the shell sets it."""
        self._hub = hub
        self._lease = lease
        self._pushed = 0
        self._sweep_at = 0.0
        self._engines_died = True
        self._runners_died = True
        self._stopping = False
        self._check_schema()
        self.members.load()
        hub.listen(PORT)
        hub.on_down(self._on_down)
        self._handlers()

    def tick(self) -> None:
        """Judge leases, push the member list if it changed, catch up with what an outage delayed."""
        for peer in self.members.judge(self._hub.is_stuck):
            self._hub.lost(peer, PeerLost("the lease ran out: join again"))
        self.members.write_back()
        self._push_members()
        if not self.store.available:
            return
        try:
            if self._engines_died:
                self.pages.keep_only({m.name: m.epoch for m in self.members.listed() if m.kind == "engine"})
                self._engines_died = False
            self.topics.tick(self.members.listed() if self._runners_died else None)
            self._runners_died = False
            if self._hub.clock() >= self._sweep_at:
                self._sweep_at = self._hub.clock() + HOUSEKEEPING
                self.processes.sweep()
        except StoreUnavailable as exc:
            log.warning("housekeeping delayed", reason=exc.message)

    def stop(self) -> None:
        """kvstore is about to close its links: their ends say nothing about the members."""
        self._stopping = True

    def _handlers(self) -> None:
        on = self._hub.on
        on(kv.Join, self._join)
        on(kv.Renew, self._renew)
        on(kv.Leave, self._leave)
        on(kv.ListMembers, lambda m: kv.MemberList(self._with_self(self.members.everyone())))
        on(kv.StatArtifact, lambda m: kv.ArtifactState(*self.artifacts.stat(m.message.sha256)))
        on(kv.PutArtifact, self._put_artifact)
        on(kv.GetArtifact, self._get_artifact)
        on(kv.InstallProgram, self._install)
        on(kv.GetProgram, lambda m: kv.ProgramRow(self.programs.get(m.message.name, m.message.version)))
        on(kv.ListPrograms, lambda m: kv.ProgramList(self.programs.list()))
        on(kv.PutProcesses, self._put_processes)
        on(kv.ListProcessRows, lambda m: kv.ProcessList(self.processes.list()))
        on(kv.PutPages, self._put_pages)
        on(kv.ListPages, lambda m: kv.PageList(self.pages.list()))
        on(kv.PutSnapshot, self._put_snapshot)
        on(kv.GetSnapshot, self._get_snapshot)
        on(kv.DeleteSnapshot, self._delete_snapshot)
        on(kv.LocateSnapshot, self._locate_snapshot)
        on(kv.ListSnapshots, lambda m: kv.SnapshotNames(self.snapshots.list(m.header.tenant, m.header.user)))

    # -- members

    def _join(self, incoming: Incoming[kv.Join]) -> None:
        member = incoming.message.member
        epoch, replaced = self.members.join(member, incoming.peer)
        self._hub.supersede(member.kind, member.name, epoch)
        incoming.reply(kv.Joined(epoch, int(self._lease * 1000)))
        if replaced is not None:
            self._hub.lost(replaced, PeerLost(f"{replaced} was replaced by a new incarnation"))
        self._push_members(to=incoming.peer)

    def _renew(self, incoming: Incoming[kv.Renew]) -> None:
        self.members.renew(incoming.peer, incoming.message.epoch, incoming.message.stats)

    def _leave(self, incoming: Incoming[kv.Leave]) -> Done:
        self.members.leave(incoming.peer, incoming.message.epoch)
        self._push_members()
        return Done()

    def _on_down(self, peer: Peer, cause: object) -> None:
        if self._stopping:
            return
        self.topics.link_down(peer)
        self.members.link_down(peer)
        self._push_members()

    def _on_dead(self, member: MemberInfo) -> None:
        if member.kind == "engine":
            self._engines_died = True
        elif member.kind == "runner":
            self._runners_died = True

    def _push_members(self, to: Peer | None = None) -> None:
        """To all members if the list changed since the last push, else to one that has just joined."""
        version = self.members.version
        peers = self.members.peers() if version != self._pushed else [to] if to is not None else []
        self._pushed = version
        if peers:
            push = kv.Members(version, self._with_self(self.members.listed()))
            for peer in peers:
                self._hub.send(peer, push)

    def _with_self(self, members: list[MemberInfo]) -> list[MemberInfo]:
        return [self.facts, *members] if self.facts is not None else members

    # -- artifacts and programs

    def _put_artifact(self, incoming: Incoming[kv.PutArtifact]) -> kv.ArtifactState:
        if len(incoming.buffers) != 1:
            raise BadField("kv.put-artifact carries its chunk as its one buffer")
        message = incoming.message
        if message.snapshot:
            owner = owner_key(*names.owner(incoming.header.tenant, incoming.header.user))
            put = self.archives.put(owner, message.sha256, message.size, message.offset, incoming.buffers[0])
            return kv.ArtifactState(*put)
        return kv.ArtifactState(*self.artifacts.put(message.sha256, message.size, message.offset, incoming.buffers[0]))

    def _get_artifact(self, incoming: Incoming[kv.GetArtifact]) -> None:
        message = incoming.message
        if message.snapshot:
            owner = owner_key(*names.owner(incoming.header.tenant, incoming.header.user))
            size, chunk = self.archives.get(owner, message.sha256, message.offset)
        else:
            size, chunk = self.artifacts.get(message.sha256, message.offset)
        incoming.reply(kv.ArtifactChunk(size, incoming.message.offset), [chunk])

    def _install(self, incoming: Incoming[kv.InstallProgram]) -> kv.ProgramRow:
        message = incoming.message
        return kv.ProgramRow(self.programs.install(message.ref, message.manifest, replace=message.replace))

    # -- rows

    def _put_processes(self, incoming: Incoming[kv.PutProcesses]) -> Done:
        self.processes.put(incoming.message.rows)
        return Done()

    def _put_pages(self, incoming: Incoming[kv.PutPages]) -> Done:
        change = incoming.message
        engine = self.members.get("engine", change.engine)
        if incoming.peer.kind != "engine" or incoming.peer.name != change.engine:
            raise BadField("an engine reports its own pages")
        if engine is None or engine.epoch != change.epoch:
            raise StaleEpoch(
                f"engine {change.engine} holds no lease of epoch {change.epoch}: join, then report in full"
            )
        self.pages.put(change)
        return Done()

    # -- snapshots

    def _put_snapshot(self, incoming: Incoming[kv.PutSnapshot]) -> Done:
        self.snapshots.put(incoming.header.tenant, incoming.header.user, incoming.message.snapshot)
        return Done()

    def _get_snapshot(self, incoming: Incoming[kv.GetSnapshot]) -> kv.SnapshotRow:
        message, header = incoming.message, incoming.header
        found = self.snapshots.get(header.tenant, header.user, message.name, take=message.take, data=message.data)
        return kv.SnapshotRow(found)

    def _locate_snapshot(self, incoming: Incoming[kv.LocateSnapshot]) -> kv.SnapshotPlace:
        snapshot = self.snapshots.get(incoming.header.tenant, incoming.header.user, incoming.message.name, take=False)
        return kv.SnapshotPlace(snapshot.model, snapshot.engine)

    def _delete_snapshot(self, incoming: Incoming[kv.DeleteSnapshot]) -> Done:
        self.snapshots.delete(incoming.header.tenant, incoming.header.user, incoming.message.name)
        return Done()

    def _check_schema(self) -> None:
        with self.store.use() as redis:
            redis.set(self.store.keys.schema, SCHEMA_VERSION, nx=True)
            found = redis.get(self.store.keys.schema)
        if found is None or int(found) != SCHEMA_VERSION:
            raise Unsupported(
                f"this Redis holds data of schema {found!r} under prefix {self.store.keys.prefix!r}, and this kvstore "
                f"speaks {SCHEMA_VERSION}: use the Pie that wrote it, another prefix, or an empty Redis"
            )
