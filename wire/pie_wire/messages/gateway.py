"""Messages that the gateway receives: from clients, and from runners."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from pie_wire.capabilities import Grants
from pie_wire.errors import ErrorInfo
from pie_wire.messages.base import Done, Message, Push, Request
from pie_wire.messages.common import (
    Event,
    MemberInfo,
    ModelFacts,
    ProcessInfo,
    Program,
    ProgramKind,
)
from pie_wire.messages.engine import AdapterInfo
from pie_wire.messages.kvstore import DeadList, EnginePages, Purged, TopicList


class Launched(Message, frozen=True, omit_defaults=True):
    """The process exists. `again`: this id had been accepted before, nothing new was started."""

    verb: ClassVar[str] = "client.launched"
    pid: str
    program: str
    again: bool = False


class Launch(Request[Launched], frozen=True, omit_defaults=True):
    """Start `program` (NAME, NAME@VERSION or sha256:DIGEST of an upload) with a JSON input.

    `pid` is chosen by the client (32 hex digits) and executed at most once; the same id with other content is
    `conflict`. With `attach`, events flow from number 1 on.
    """

    verb: ClassVar[str] = "gw.launch"
    reply: ClassVar[type[Launched]] = Launched
    pid: str
    program: str
    input: str = "{}"
    kind: ProgramKind = "python"
    """Only read for sha256: programs."""
    filename: str = "inferlet.py"
    attach: bool = True
    on_disconnect: Literal["continue", "terminate"] = "continue"
    on_full: Literal["block", "drop"] = "block"
    manifest: str = ""
    """Of an upload (TOML): its `[capabilities]` are what the program asks for. Only read for sha256: programs."""
    allow: Grants = Grants()
    """Granted by whoever launches, where the operator lets users grant; else the launch is `forbidden`. An upload also
    asks for them."""
    mcp: list[str] = []
    """Names of tool servers that the client runs, for as long as it owns the process: `client.ask-tool` asks them."""
    near: str = ""
    """Name of a snapshot of the user: the process's home is the engine that has its KV."""


class Attached(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "client.attached"
    process: ProcessInfo


class Attach(Request[Attached], frozen=True, omit_defaults=True):
    """Receive events of a process from number `start` on. A new attach replaces the old one."""

    verb: ClassVar[str] = "gw.attach"
    reply: ClassVar[type[Attached]] = Attached
    pid: str
    start: int = 1


class Detach(Request[Done], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "gw.detach"
    pid: str


class AckEvents(Push, frozen=True, omit_defaults=True):
    """The client has all events of each process up to the number beside it: they no longer count against its limit."""

    verb: ClassVar[str] = "gw.ack-events"
    pids: list[str]
    seqs: list[int]


class Signal(Request[Done], frozen=True, omit_defaults=True):
    """Deliver `text` (or buffer 0, with `binary`) to the process's `session.receive`."""

    verb: ClassVar[str] = "gw.signal"
    pid: str
    text: str = ""
    binary: bool = False


class SendFile(Request[Done], frozen=True, omit_defaults=True):
    """A part of a file for the process's `session.receive-file`: buffer 0 at `offset` of `size`. Answered when the
    runner has it; parts go one after the other, and one that was sent before is no harm."""

    verb: ClassVar[str] = "gw.send-file"
    pid: str
    file: str
    """Id of this file, chosen by the client (32 hex digits)."""
    name: str
    size: int
    offset: int = 0


class Terminate(Request[Done], frozen=True, omit_defaults=True):
    """End a process; answered when its terminal event is written. Ended already: no error."""

    verb: ClassVar[str] = "gw.terminate"
    pid: str
    reason: str = "terminated by its owner"


class Processes(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "client.processes"
    processes: list[ProcessInfo]


class ListProcesses(Request[Processes], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "gw.list-processes"
    reply: ClassVar[type[Processes]] = Processes
    ended: bool = False
    """Also those that have ended and are still kept."""


class UploadState(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "client.upload-state"
    received: int
    complete: bool


class Upload(Request[UploadState], frozen=True, omit_defaults=True):
    """One chunk of an artifact: buffer 0 at `offset` of `size`. The last one is answered after its digest has been
    checked and kvstore holds all of it. An empty buffer asks how far an earlier upload came."""

    verb: ClassVar[str] = "gw.upload"
    reply: ClassVar[type[UploadState]] = UploadState
    sha256: str
    size: int
    offset: int


class Installed(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "client.installed"
    program: Program


class Install(Request[Installed], frozen=True, omit_defaults=True):
    """Register an uploaded artifact under the name and version of its manifest (TOML)."""

    verb: ClassVar[str] = "gw.install"
    reply: ClassVar[type[Installed]] = Installed
    sha256: str
    kind: ProgramKind
    manifest: str
    replace: bool = False


class Programs(Message, frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "client.programs"
    programs: list[Program]


class ListInstalled(Request[Programs], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "gw.list-programs"
    reply: ClassVar[type[Programs]] = Programs


class StatusReport(Message, frozen=True, omit_defaults=True):
    """The members that kvstore lists, the models that engines serve, and where HTTP is."""

    verb: ClassVar[str] = "client.status"
    members: list[MemberInfo]
    models: list[ModelFacts]
    http: str = ""
    processes: int = 0
    """Running ones."""


class Status(Request[StatusReport], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "gw.status"
    reply: ClassVar[type[StatusReport]] = StatusReport


class Topics(Request[TopicList], frozen=True, omit_defaults=True):
    """The user's topics that hold messages."""

    verb: ClassVar[str] = "gw.topics"
    reply: ClassVar[type[TopicList]] = TopicList


class DeadMessages(Request[DeadList], frozen=True, omit_defaults=True):
    """The dead messages of a topic, oldest first, up to about a megabyte of them."""

    verb: ClassVar[str] = "gw.dead-messages"
    reply: ClassVar[type[DeadList]] = DeadList
    topic: str


class Purge(Request[Purged], frozen=True, omit_defaults=True):
    """Delete the dead messages of a topic; with `waiting`, those that nobody has as well."""

    verb: ClassVar[str] = "gw.purge-topic"
    reply: ClassVar[type[Purged]] = Purged
    topic: str
    waiting: bool = False


class PagesReport(Message, frozen=True, omit_defaults=True):
    """Pools and page owners of all engines, as kvstore has them."""

    verb: ClassVar[str] = "client.pages"
    engines: list[EnginePages]


class Pages(Request[PagesReport], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "gw.pages"
    reply: ClassVar[type[PagesReport]] = PagesReport


class EngineAdapters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one engine holds, has loaded or has taken away; or why it did not."""

    engine: str
    model: str
    adapters: list[AdapterInfo]
    used: int = 0
    limit: int = 0
    error: ErrorInfo | None = None


class AdapterReport(Message, frozen=True, omit_defaults=True):
    """A row for each engine that was asked."""

    verb: ClassVar[str] = "client.adapters"
    engines: list[EngineAdapters]


class ListModelAdapters(Request[AdapterReport], frozen=True, omit_defaults=True):
    """Adapters on all engines, or on those of one model."""

    verb: ClassVar[str] = "gw.list-adapters"
    reply: ClassVar[type[AdapterReport]] = AdapterReport
    model: str = ""


class LoadModelAdapter(Request[AdapterReport], frozen=True, omit_defaults=True):
    """`eng.load-adapter` on all engines (of one model); the folder is on their machines. Fails only if all did."""

    verb: ClassVar[str] = "gw.load-adapter"
    reply: ClassVar[type[AdapterReport]] = AdapterReport
    name: str
    folder: str
    model: str = ""


class UnloadModelAdapter(Request[AdapterReport], frozen=True, omit_defaults=True):
    """`eng.unload-adapter` on all engines (of one model). Fails only if all did."""

    verb: ClassVar[str] = "gw.unload-adapter"
    reply: ClassVar[type[AdapterReport]] = AdapterReport
    adapter: str
    model: str = ""


class RunningProcess(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a runner holds of a process: its events after the last durable one will be sent again."""

    pid: str
    first_kept: int
    last_seq: int
    ended: bool = False


class Recovered(Message, frozen=True, omit_defaults=True):
    """Per announced pid: the last event number the gateway holds durably. Pids it does not know are absent: end
    them."""

    verb: ClassVar[str] = "runner.recovered"
    durable: dict[str, int]
    consumed: dict[str, int]


class Announce(Request[Recovered], frozen=True, omit_defaults=True):
    """First message of a runner on a new link. `tenants`: it is dedicated to these and takes nothing of others; none:
    it is for all."""

    verb: ClassVar[str] = "gw.announce"
    reply: ClassVar[type[Recovered]] = Recovered
    capacity: int
    processes: list[RunningProcess]
    tenants: list[str] = []


class RunnerLoad(Push, frozen=True, omit_defaults=True):
    """Once a second, and when it changes much. `lag_ms`: worst loop lag since the last one."""

    verb: ClassVar[str] = "gw.runner-load"
    live: int
    capacity: int
    lag_ms: float = 0.0


class LaunchChild(Request[Launched], frozen=True, omit_defaults=True):
    """Process `parent`, which the sending runner has, launches a program by name. Answered when a runner has taken the
    child on; its end is `run.child-ended`. Sent again after a link was lost, with the same `pid`: nothing runs twice,
    and an end that was missed is told again."""

    verb: ClassVar[str] = "gw.launch-child"
    reply: ClassVar[type[Launched]] = Launched
    parent: str
    pid: str
    """Of the child; chosen by the runner."""
    program: str
    input: str = "{}"
    near: str = ""
    """Name of a snapshot of the user: the child's home is the engine that has its KV."""
    detached: bool = False
    """It lives on when its parent ends. Sent again with true, it detaches the child."""


class DetachChild(Push, frozen=True, omit_defaults=True):
    """The child lives on when its parent ends."""

    verb: ClassVar[str] = "gw.detach-child"
    parent: str
    pid: str


class EndChild(Push, frozen=True, omit_defaults=True):
    """End a child, whether it runs already or not."""

    verb: ClassVar[str] = "gw.end-child"
    parent: str
    pid: str


class Events(Push, frozen=True, omit_defaults=True):
    """Events of many processes: `counts[i]` consecutive items of `events` belong to `pids[i]`."""

    verb: ClassVar[str] = "gw.events"
    pids: list[str]
    counts: list[int]
    events: list[Event]


class ToolAnswered(Message, frozen=True, omit_defaults=True):
    """The result of a call, JSON text."""

    verb: ClassVar[str] = "runner.tool-answered"
    result: str


class AskTool(Request[ToolAnswered], frozen=True, omit_defaults=True):
    """A program's call of a tool server that its client runs. `method` is one of the Model Context Protocol's, `params`
    a JSON object."""

    verb: ClassVar[str] = "gw.ask-tool"
    reply: ClassVar[type[ToolAnswered]] = ToolAnswered
    pid: str
    server: str
    method: str
    params: str
