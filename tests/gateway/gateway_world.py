"""A real gateway core among simple stand-ins: runners, a kvstore and clients on real hubs, one hand-driven clock."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pie_gateway.config import GatewayConfig
from pie_gateway.core import CLIENTS, RUNNERS, GatewayCore
from pie_gateway.log import EventLog
from pie_gateway.memory_log import MemoryEventLog
from pie_gateway.policy import Policy
from pie_wire.errors import HashMismatch, NotFound, PeerLost, PieError, StoreUnavailable, Terminated
from pie_wire.hub import Answer, Hub, Incoming, Peer, Scope
from pie_wire.membership import KVSTORE, Membership
from pie_wire.messages.base import Done, Message, Push, Request
from pie_wire.messages.client import ProcessEvents, Replaced
from pie_wire.messages.common import TERMINAL_KINDS, Event, MemberInfo, ProcessInfo, Program, ProgramRef
from pie_wire.messages.gateway import (
    AckEvents,
    Announce,
    Attach,
    Events,
    Launch,
    LaunchChild,
    Launched,
    Recovered,
    RunningProcess,
)
from pie_wire.messages.kvstore import (
    ArtifactState,
    DeadList,
    DeadMessage,
    GetProgram,
    InstallProgram,
    Join,
    Joined,
    Leave,
    ListDead,
    ListMembers,
    ListPages,
    ListPrograms,
    ListTopics,
    LocateSnapshot,
    MemberList,
    Members,
    PageList,
    ProgramList,
    ProgramRow,
    Purged,
    PurgeTopic,
    PutArtifact,
    PutProcesses,
    Renew,
    SnapshotPlace,
    StatArtifact,
    TopicInfo,
    TopicList,
)
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import ChildEnded, Credit, Deliver, DeliverFile, Kill, Start
from pie_wire.tenants import TenantTable

R = TypeVar("R", bound=Message)

GATEWAY = "gateway"
ENGINE = MemberInfo("engine", "engine-0", 1, info={"model": "tiny", "max_context": 2048, "vocab": 300})
HELLO = Program(ProgramRef("hello", "0.1.0", "python", "a" * 64))


class FakeKvstore:
    """Keeps what it is told, in plain dictionaries."""

    def __init__(self) -> None:
        self.programs: list[Program] = [HELLO]
        self.members: list[MemberInfo] = [ENGINE]
        self.artifacts: dict[str, bytearray] = {}
        self.complete: set[str] = set()
        self.rows: dict[str, ProcessInfo] = {}
        self.asked: list[str] = []
        self.failing = False
        self.places: dict[str, SnapshotPlace] = {}
        """Of snapshots, by name."""
        self.hides_places = False
        """Questions for them have no answer."""
        self.version = 0
        self.hub: Hub

    def start(self, hub: Hub) -> None:
        self.hub = hub
        hub.listen(KVSTORE)
        for message, handler in {
            Join: self._join,
            GetProgram: self._program,
            ListPrograms: lambda _: ProgramList(self.programs),
            StatArtifact: lambda m: self._state(m.message.sha256),
            PutArtifact: self._put,
            InstallProgram: self._install,
            PutProcesses: self._rows,
            ListMembers: lambda _: MemberList(self.members),
            ListPages: lambda _: PageList([]),
            LocateSnapshot: self._locate,
            ListTopics: lambda _: TopicList([TopicInfo("jobs", 1, 0, 2, 30)]),
            ListDead: lambda m: DeadList([DeadMessage(7, m.message.topic, 1.0)]),
            PurgeTopic: lambda m: Purged(3 if m.message.waiting else 2),
        }.items():
            hub.on(message, self._logged(handler))
        hub.on(Renew, lambda _: None)
        hub.on(Leave, lambda _: Done())

    def push_members(self) -> None:
        self.version += 1
        for peer in self.hub.peers():
            self.hub.send(peer, Members(self.version, self.members))

    def _logged(self, handler: Callable[[Incoming[Any]], Message | None]) -> Callable[[Incoming[Any]], Message | None]:
        def handle(incoming: Incoming[Any]) -> Message | None:
            self.asked.append(incoming.message.verb)
            if self.failing:
                raise StoreUnavailable("redis is away")
            return handler(incoming)

        return handle

    def _join(self, incoming: Incoming[Join]) -> Joined:
        self.version += 1
        incoming.reply(Joined(7, 5000))
        self.hub.send(incoming.peer, Members(self.version, self.members))
        return Joined(7, 5000)

    def _program(self, incoming: Incoming[GetProgram]) -> ProgramRow:
        for program in self.programs:
            if program.ref.name == incoming.message.name and incoming.message.version in ("", program.ref.version):
                return ProgramRow(program)
        raise NotFound("no such program")

    def _state(self, digest: str) -> ArtifactState:
        return ArtifactState(len(self.artifacts.get(digest, b"")), digest in self.complete)

    def _put(self, incoming: Incoming[PutArtifact]) -> ArtifactState:
        message = incoming.message
        data = self.artifacts.setdefault(message.sha256, bytearray())
        if message.offset <= len(data):
            data[message.offset :] = incoming.buffers[0]
        if len(data) == message.size:
            if hashlib.sha256(data).hexdigest() != message.sha256:
                del self.artifacts[message.sha256]
                raise HashMismatch("other bytes")
            self.complete.add(message.sha256)
        return self._state(message.sha256)

    def _install(self, incoming: Incoming[InstallProgram]) -> ProgramRow:
        if incoming.message.ref.sha256 not in self.complete:
            raise NotFound("upload it first")
        self.programs.append(Program(incoming.message.ref, incoming.message.manifest))
        return ProgramRow(self.programs[-1])

    def _locate(self, incoming: Incoming[LocateSnapshot]) -> SnapshotPlace | None:
        if self.hides_places:
            return None
        if incoming.message.name not in self.places:
            raise NotFound("no snapshot")
        return self.places[incoming.message.name]

    def _rows(self, incoming: Incoming[PutProcesses]) -> Done:
        self.rows.update({row.pid: row for row in incoming.message.rows})
        return Done()


@dataclass
class RunnerProcess:
    start: Start
    events: list[Event] = field(default_factory=list[Event])
    durable: int = 0
    consumed: int = 0
    killed: str = ""
    received: list[str] = field(default_factory=list[str])

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].kind in TERMINAL_KINDS


class FakeRunner:
    """Runs nothing: tests say which events its processes have. Keeps events until they are durable."""

    def __init__(self, name: str, capacity: int = 8, tenants: Sequence[str] = ()) -> None:
        self.name = name
        self.capacity = capacity
        self.tenants = list(tenants)
        """It is dedicated to these."""
        self.scopes: dict[str, Scope] = {}
        """Whose processes it was given."""
        self.processes: dict[str, RunnerProcess] = {}
        self.started: list[str] = []
        self.killed: list[str] = []
        self.refuse: PieError | None = None
        self.before_refusal: Callable[[], None] = lambda: None
        self.silent = False
        """Do not answer Start."""
        self.takes_messages = True
        """Answer Deliver and DeliverFile."""
        self.obeys = True
        """End a process when told to."""
        self.on_start: Callable[[str, Start], None] = lambda pid, start: None
        self.peer: Peer | None = None
        self.parts: list[tuple[DeliverFile, bytes]] = []
        """Of files for its processes."""
        self.children: dict[str, ChildEnded] = {}
        """What it was told of the ends of children."""
        self.hub: Hub

    def start(self, hub: Hub) -> None:
        self.hub = hub
        hub.on(ChildEnded, lambda m: self.children.update({m.message.pid: m.message}))
        hub.on_up(self._up)
        hub.on_down(self._down)
        hub.on(Start, self._start)
        hub.on(Kill, self._kill)
        hub.on(Deliver, self._deliver)
        hub.on(DeliverFile, self._part)
        hub.on(Credit, self._credit)
        hub.dial(GATEWAY)

    def emit(self, pid: str, kind: str, text: str = "", error: PieError | None = None) -> Event:
        process = self.processes[pid]
        event = Event(len(process.events) + 1, kind, text, error=error.info() if error else None)  # type: ignore[arg-type]
        process.events.append(event)
        self.push(pid, [event])
        return event

    def push(self, pid: str, events: Sequence[Event]) -> None:
        """Send events as they are, without keeping them."""
        if self.peer is not None:
            self.hub.send(self.peer, Events([pid], [len(events)], list(events)))

    def child(self, parent: str, pid: str, program: str = "hello", **fields: Any) -> list[Answer[Launched]]:
        """Process `parent` launches a child."""
        answers: list[Answer[Launched]] = []
        assert self.peer is not None
        self.hub.request(self.peer, LaunchChild(parent, pid, program, **fields), answers.append, timeout=60.0)
        return answers

    def tell(self, message: Push) -> None:
        assert self.peer is not None
        self.hub.send(self.peer, message)

    def _up(self, peer: Peer) -> None:
        held = [RunningProcess(pid, p.durable + 1, len(p.events), p.ended) for pid, p in self.processes.items()]
        self.hub.request(
            peer, Announce(self.capacity, held, self.tenants), lambda a: self._recovered(peer, a), timeout=10.0
        )

    def _recovered(self, peer: Peer, answer: Answer[Recovered]) -> None:
        if answer.error is not None or not peer.alive:
            return
        self.peer = peer
        durable = answer.value().durable
        for pid, process in list(self.processes.items()):
            if pid not in durable:
                del self.processes[pid]
                continue
            process.durable = max(process.durable, durable[pid])
            missing = process.events[durable[pid] :]
            if missing:
                self.push(pid, missing)

    def _down(self, peer: Peer, cause: PieError) -> None:
        if self.peer is peer:
            self.peer = None

    def _start(self, incoming: Incoming[Start]) -> Done | None:
        if self.refuse is not None:
            self.before_refusal()
            raise self.refuse
        pid = incoming.message.pid
        self.started.append(pid)
        self.scopes[pid] = incoming.scope
        self.processes[pid] = RunnerProcess(incoming.message)
        if self.silent:
            return None
        incoming.reply(Done())
        self.emit(pid, "started")
        self.on_start(pid, incoming.message)
        return None

    def _kill(self, incoming: Incoming[Kill]) -> None:
        pid = incoming.message.pid
        self.killed.append(pid)
        process = self.processes.get(pid)
        if process is not None and self.obeys and not process.ended:
            process.killed = incoming.message.reason
            self.emit(pid, "error", error=Terminated(incoming.message.reason))

    def _deliver(self, incoming: Incoming[Deliver]) -> Done | None:
        if not self.takes_messages:
            return None
        process = self.processes[incoming.message.pid]
        process.received.append(bytes(incoming.buffers[0]).decode() if incoming.buffers else incoming.message.text)
        return Done()

    def _part(self, incoming: Incoming[DeliverFile]) -> Done | None:
        if not self.takes_messages:
            return None
        self.parts.append((incoming.message, bytes(incoming.buffers[0])))
        return Done()

    def _credit(self, incoming: Incoming[Credit]) -> None:
        message = incoming.message
        for pid, durable, consumed in zip(message.pids, message.durable, message.consumed, strict=True):
            if pid in self.processes:
                self.processes[pid].durable, self.processes[pid].consumed = durable, consumed


class FakeClient:
    """Takes events as they come and, unless told otherwise, acknowledges them at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: dict[str, list[Event]] = {}
        self.replaced: list[str] = []
        self.acks = True
        self.hub: Hub

    def start(self, hub: Hub) -> None:
        self.hub = hub
        hub.on(ProcessEvents, self._events)
        hub.on(Replaced, self._replaced)
        hub.dial(GATEWAY)

    def seqs(self, pid: str) -> list[int]:
        return [e.seq for e in self.events.get(pid, [])]

    def texts(self, pid: str) -> list[str]:
        return [e.text for e in self.events.get(pid, []) if e.kind == "message"]

    def send(
        self, request: Request[R], *buffers: bytes, user: str = "local", tenant: str = "local", timeout: float = 60.0
    ) -> list[Answer[R]]:
        """Ask without waiting: the list receives the answer."""
        answers: list[Answer[R]] = []
        scope = Scope(tenant, user)
        self.hub.request(GATEWAY, request, answers.append, timeout=timeout, buffers=buffers, scope=scope)
        return answers

    def ask(self, request: Request[R], *buffers: bytes, user: str = "local", tenant: str = "local") -> R:
        """Ask and run the world until the answer is there; raises its error."""
        answers = self.send(request, *buffers, user=user, tenant=tenant)
        assert self.world.run(70.0, until=lambda: bool(answers)), f"no answer to {request}"
        return answers[0].value()

    def launch(self, program: str = "hello", **fields: Any) -> str:
        pid = fields.pop("pid", None) or self.world.pid()
        launched = self.ask(Launch(pid, program, **fields))
        assert isinstance(launched, Launched)
        return pid

    def ack(self, pid: str, seq: int) -> None:
        peer = self.hub.peer(GATEWAY)
        if peer is not None:
            self.hub.send(peer, AckEvents([pid], [seq]))

    def attach(self, pid: str, start: int) -> None:
        self.events[pid] = []
        self.ask(Attach(pid, start))

    def _events(self, incoming: Incoming[ProcessEvents]) -> None:
        message = incoming.message
        at = 0
        for pid, count in zip(message.pids, message.counts, strict=True):
            events = message.events[at : at + count]
            at += count
            self.events.setdefault(pid, []).extend(events)
            if self.acks:
                self.ack(pid, events[-1].seq)
        assert at == len(message.events)

    def _replaced(self, incoming: Incoming[Replaced]) -> None:
        self.replaced.append(incoming.message.pid)


class World:
    """Names, hubs and time. Frames travel without loss; a node that is killed is replaced by starting it anew."""

    def __init__(
        self,
        log: EventLog | None = None,
        policy: Policy | None = None,
        tenants: TenantTable | None = None,
        **config: Any,
    ) -> None:
        self.now = 100.0
        self.unix = 1_700_000_000.0
        self.rng = random.Random(1)
        self.config = GatewayConfig(**config)
        self.policy = policy
        self.tenants = tenants
        self.log = log or MemoryEventLog()
        self.hubs: dict[str, Hub] = {}
        self._ports: dict[tuple[str, str], tuple[str, str]] = {}
        self._incarnation = 0
        self.core: GatewayCore | None = None
        self.kvstore = FakeKvstore()
        self.start_kvstore()
        self.start_gateway()

    # -- nodes

    def start_gateway(self) -> GatewayCore:
        hub = self._hub("gateway", GATEWAY)
        hub.listen(CLIENTS)
        hub.listen(RUNNERS)
        self._dial(GATEWAY, KVSTORE, KVSTORE, KVSTORE)
        hub.dial(KVSTORE)
        self.core = GatewayCore(
            self.config, hub, self.log, Membership(hub), lambda: self.unix, self.policy, self.tenants
        )
        return self.core

    def start_kvstore(self) -> None:
        self.kvstore.start(self._hub("kvstore", KVSTORE))

    def runner(self, name: str = "runner-0", capacity: int = 8, tenants: Sequence[str] = ()) -> FakeRunner:
        runner = FakeRunner(name, capacity, tenants)
        self._dial(name, GATEWAY, GATEWAY, RUNNERS)
        runner.start(self._hub("runner", name))
        self.run(0.5)
        return runner

    def client(self, name: str = "client") -> FakeClient:
        client = FakeClient(self)
        self._dial(name, GATEWAY, GATEWAY, CLIENTS)
        client.start(self._hub("client", name))
        self.run(0.5)
        return client

    def kill(self, name: str) -> None:
        """As kill -9: nothing more leaves it, and the others are told by their process watch."""
        dead = self.hubs.pop(name)
        if name == GATEWAY:
            self.core = None
        for hub in self.hubs.values():
            for peer in hub.peers():
                if peer.identity.incarnation == dead.identity.incarnation:
                    hub.lost(peer, PeerLost(f"{peer} has died"))

    def restart_gateway(self) -> None:
        self.kill(GATEWAY)
        self.start_gateway()

    def pid(self) -> str:
        return f"{self.rng.getrandbits(128):032x}"

    # -- time

    def run(self, seconds: float = 0.3, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stops early when `until` holds. Returns whether it does."""
        end = self.now + seconds
        while True:
            for hub in list(self.hubs.values()):
                hub.tick()
            if self.core is not None:
                self.core.tick()
            self._exchange()
            if until is not None and until():
                return True
            if self.now >= end:
                return until is None
            self.now += 0.05
            self.unix += 0.05

    def _exchange(self) -> None:
        for _ in range(1000):
            frames = [(name, item) for name, hub in self.hubs.items() for item in hub.outgoing()]
            if not frames:
                return
            for name, item in frames:
                if item.route:
                    to, port, incarnation = item.route.decode().split("|")
                    if to in self.hubs and self.hubs[to].identity.incarnation == incarnation:
                        self.hubs[to].receive(port, b"", item.frames)
                else:
                    to, port = self._ports[name, item.port]
                    if to in self.hubs and name in self.hubs:
                        route = f"{name}|{item.port}|{self.hubs[name].identity.incarnation}".encode()
                        self.hubs[to].receive(port, route, item.frames)
        raise AssertionError("the hubs never come to rest")

    def _hub(self, kind: str, name: str) -> Hub:
        self._incarnation += 1
        identity = Identity(kind, name, 0, f"{name}-{self._incarnation}")
        self.hubs[name] = Hub(identity, lambda: self.now, rng=random.Random(self._incarnation))
        return self.hubs[name]

    def _dial(self, name: str, port: str, to: str, listening: str) -> None:
        self._ports[name, port] = (to, listening)
