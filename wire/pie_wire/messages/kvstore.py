"""Messages that kvstore receives, their replies, and what it pushes to members."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from pie_wire.messages.base import Done, Message, Push, Request
from pie_wire.messages.common import MemberInfo, PageRow, PoolStats, ProcessInfo, Program, ProgramRef


class Joined(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.joined"
    epoch: int
    lease_ms: int


class Join(Request[Joined], frozen=True, omit_defaults=True):
    """Become a member. The same (name, incarnation) joining again keeps its epoch."""

    verb: ClassVar[str] = "kv.join"
    reply: ClassVar[type[Joined]] = Joined
    member: MemberInfo


class Renew(Push, frozen=True, omit_defaults=True):
    """Keep the lease and report load; sent every third of the lease or sooner."""

    verb: ClassVar[str] = "kv.renew"
    epoch: int
    stats: dict[str, str | int | float] = {}


class Leave(Request[Done], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.leave"
    epoch: int


class Members(Push, frozen=True, omit_defaults=True):
    """To every member, on each change and on joining: all members now. Higher `version` replaces lower."""

    verb: ClassVar[str] = "kv.members"
    version: int
    members: list[MemberInfo]


class MemberList(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.member-list"
    members: list[MemberInfo]


class ListMembers(Request[MemberList], frozen=True, omit_defaults=True):
    """All members with their latest stats."""

    verb: ClassVar[str] = "kv.list-members"
    reply: ClassVar[type[MemberList]] = MemberList


class ArtifactState(Message, frozen=True, omit_defaults=True):
    """`stored` bytes are there; complete when `complete`."""

    verb: ClassVar[str] = "kv.artifact-state"
    stored: int
    complete: bool


class StatArtifact(Request[ArtifactState], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.stat-artifact"
    reply: ClassVar[type[ArtifactState]] = ArtifactState
    sha256: str


class PutArtifact(Request[ArtifactState], frozen=True, omit_defaults=True):
    """One chunk (buffer 0) at `offset`; the last one makes kvstore check the digest. Repeats are harmless.

    `snapshot`: the data of a snapshot, which is the user's own and counts against `snapshot_bytes` from its first chunk
    on; without a snapshot that names it, it is forgotten after a while."""

    verb: ClassVar[str] = "kv.put-artifact"
    reply: ClassVar[type[ArtifactState]] = ArtifactState
    sha256: str
    size: int
    offset: int
    snapshot: bool = False


class ArtifactChunk(Message, frozen=True, omit_defaults=True):
    """Buffer 0 holds the bytes."""

    verb: ClassVar[str] = "kv.artifact-chunk"
    size: int
    offset: int


class GetArtifact(Request[ArtifactChunk], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.get-artifact"
    reply: ClassVar[type[ArtifactChunk]] = ArtifactChunk
    sha256: str
    offset: int
    snapshot: bool = False
    """One of this user's snapshots' data."""


class ProgramRow(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.program-row"
    program: Program


class InstallProgram(Request[ProgramRow], frozen=True, omit_defaults=True):
    """Register a stored artifact under name@version. Same bytes again: no change. Other bytes: conflict, unless
    `replace`."""

    verb: ClassVar[str] = "kv.install-program"
    reply: ClassVar[type[ProgramRow]] = ProgramRow
    ref: ProgramRef
    manifest: str
    replace: bool = False


class GetProgram(Request[ProgramRow], frozen=True, omit_defaults=True):
    """`version` empty: the highest by semantic versioning."""

    verb: ClassVar[str] = "kv.get-program"
    reply: ClassVar[type[ProgramRow]] = ProgramRow
    name: str
    version: str = ""


class ProgramList(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.program-list"
    programs: list[Program]


class ListPrograms(Request[ProgramList], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.list-programs"
    reply: ClassVar[type[ProgramList]] = ProgramList


class PutProcesses(Request[Done], frozen=True, omit_defaults=True):
    """Rows of the durable process index, from the gateway; kept ten minutes past `ended_at`."""

    verb: ClassVar[str] = "kv.put-processes"
    rows: list[ProcessInfo]


class ProcessList(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.process-list"
    processes: list[ProcessInfo]


class ListProcessRows(Request[ProcessList], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.list-processes"
    reply: ClassVar[type[ProcessList]] = ProcessList


class PutPages(Request[Done], frozen=True, omit_defaults=True):
    """Net change of page ownership since the last acknowledged one. `full`: replaces all rows of this engine."""

    verb: ClassVar[str] = "kv.put-pages"
    engine: str
    epoch: int
    rows: list[PageRow]
    dropped: list[tuple[str, int, int]] = []
    """(runner, runner epoch, context) of rows that ended."""
    pool: PoolStats = PoolStats()
    full: bool = False


class EnginePages(msgspec.Struct, frozen=True, omit_defaults=True):
    engine: str
    pool: PoolStats
    rows: list[PageRow]


class PageList(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.page-list"
    engines: list[EnginePages]


class ListPages(Request[PageList], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.list-pages"
    reply: ClassVar[type[PageList]] = PageList


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A named context as lineage: its tokens rebuild it anywhere, unless it needs `data` besides. Names are per
    (tenant, user)."""

    name: str
    model: str
    tokens: list[int]
    saved_at: float = 0.0
    engine: str = ""
    """Name of the engine that held its KV when it was saved."""
    data: str = ""
    """SHA-256 of an export that the context is made from, put before; empty if the tokens are all there is to know."""


class SnapshotRow(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.snapshot-row"
    snapshot: Snapshot


class PutSnapshot(Request[Done], frozen=True, omit_defaults=True):
    """Save under a name, atomically replacing what it held; data that no name needs any more is freed. Durable when
    answered."""

    verb: ClassVar[str] = "kv.put-snapshot"
    snapshot: Snapshot


class GetSnapshot(Request[SnapshotRow], frozen=True, omit_defaults=True):
    """`take` also deletes it; with `data` (which may be empty), only if that is still its data, else it is a
    `conflict`."""

    verb: ClassVar[str] = "kv.get-snapshot"
    reply: ClassVar[type[SnapshotRow]] = SnapshotRow
    name: str
    take: bool = False
    data: str | None = None


class DeleteSnapshot(Request[Done], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.delete-snapshot"
    name: str


class SnapshotPlace(Message, frozen=True, omit_defaults=True):
    """`engine`: empty if it is not known."""

    verb: ClassVar[str] = "kv.snapshot-place"
    model: str
    engine: str = ""


class LocateSnapshot(Request[SnapshotPlace], frozen=True, omit_defaults=True):
    """Where the KV of a snapshot was when it was saved."""

    verb: ClassVar[str] = "kv.locate-snapshot"
    reply: ClassVar[type[SnapshotPlace]] = SnapshotPlace
    name: str


class SnapshotNames(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.snapshot-names"
    names: list[str]


class ListSnapshots(Request[SnapshotNames], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.list-snapshots"
    reply: ClassVar[type[SnapshotNames]] = SnapshotNames


class PushMessage(Request[Done], frozen=True, omit_defaults=True):
    """Add a message to a topic's queue; stored when answered. Topics are per (tenant, user). Sent again with the same
    `key` within two minutes, it is not added twice."""

    verb: ClassVar[str] = "kv.push-message"
    topic: str
    text: str
    key: str


class PullMessage(Request[Done], frozen=True, omit_defaults=True):
    """Process `pid`, of the sending runner, wants the next message; it comes as `run.message`. Answered when the wish
    is known, which it is for as long as the link lives: then it is sent again, with the same `number`."""

    verb: ClassVar[str] = "kv.pull-message"
    topic: str
    pid: str
    number: int
    """Of this pull among those of the process."""
    acknowledged: list[int] = []
    """Messages of the topic that the process has done with."""


class SettleMessages(Request[Done], frozen=True, omit_defaults=True):
    """What becomes of messages that `pid` was given: those `acknowledged` are done with, those `failed` are for others.
    With `all`, what it has besides was never seen by it and is put back, and its pulls end; with `number`, that of
    this pull."""

    verb: ClassVar[str] = "kv.settle-messages"
    pid: str
    acknowledged: list[int] = []
    failed: list[int] = []
    number: int = 0
    all: bool = False


class Broadcast(Request[Done], frozen=True, omit_defaults=True):
    """To all who are subscribed now. Answered when it was sent to their runners; it may get lost on the way."""

    verb: ClassVar[str] = "kv.broadcast"
    topic: str
    text: str


class Subscribe(Request[Done], frozen=True, omit_defaults=True):
    """The sending runner wants the broadcasts of a topic, for as long as the link lives."""

    verb: ClassVar[str] = "kv.subscribe"
    topic: str


class Unsubscribe(Push, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.unsubscribe"
    topic: str


class TopicInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic with messages in its queue."""

    name: str
    waiting: int
    """Messages that nobody has."""
    taken: int
    dead: int
    """Messages that were taken five times and never acknowledged."""
    size: int
    """Bytes of all of them."""


class TopicList(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.topic-list"
    topics: list[TopicInfo]


class ListTopics(Request[TopicList], frozen=True, omit_defaults=True):
    """The user's topics that hold messages."""

    verb: ClassVar[str] = "kv.list-topics"
    reply: ClassVar[type[TopicList]] = TopicList


class DeadMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that nobody could deal with. Times are Unix seconds."""

    message: int
    text: str
    pushed_at: float


class DeadList(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.dead-list"
    messages: list[DeadMessage]


class ListDead(Request[DeadList], frozen=True, omit_defaults=True):
    """The dead messages of a topic, oldest first, up to about a megabyte of them."""

    verb: ClassVar[str] = "kv.list-dead"
    reply: ClassVar[type[DeadList]] = DeadList
    topic: str


class Purged(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "kv.purged"
    messages: int


class PurgeTopic(Request[Purged], frozen=True, omit_defaults=True):
    """Delete the dead messages of a topic; with `waiting`, those that nobody has as well."""

    verb: ClassVar[str] = "kv.purge-topic"
    reply: ClassVar[type[Purged]] = Purged
    topic: str
    waiting: bool = False
