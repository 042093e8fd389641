"""A runner's world in one process: real hubs without sockets, the real engine core over a simulated device, and
stand-ins for gateway and kvstore that tests can read and steer."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from pie_engine.core import EngineCore
from pie_engine.limits import Limits
from pie_engine.simulation.simulated import SimulatedDevice
from pie_engine.simulation.simulated_adapters import SimulatedAdapter
from pie_runner.core import RunnerCore
from pie_runner.host import TABLE
from pie_runner.outside.aside import Aside
from pie_runner.outside.file_rooms import FileRooms
from pie_runner.outside.http_client import HttpSettings, HttpShared
from pie_runner.outside.mcp_servers import McpServers
from pie_runner.outside.process_outside import OutsideFacilities
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CoroutineHost
from pie_wire.errors import Conflict, NotFound, PeerLost, PieError
from pie_wire.hosts import Address
from pie_wire.hub import Hub, Incoming, Peer, Scope
from pie_wire.messages.base import Done
from pie_wire.messages.common import Event, MemberInfo, ModelFacts, ProgramKind, ProgramRef
from pie_wire.messages.gateway import (
    Announce,
    DetachChild,
    EndChild,
    Events,
    LaunchChild,
    Launched,
    Recovered,
    RunnerLoad,
)
from pie_wire.messages.kvstore import (
    ArtifactChunk,
    ArtifactState,
    DeleteSnapshot,
    GetArtifact,
    GetSnapshot,
    Join,
    Joined,
    Members,
    PutArtifact,
    PutPages,
    PutSnapshot,
    Renew,
    Snapshot,
    SnapshotRow,
)
from pie_wire.messages.link import Identity
from pie_wire.messages.runner import ChildEnded, Credit, Deliver, Kill, Start
from pie_wire.tenants import TenantTable

VOCAB = 300
PAGE = 16
MAX_CONTEXT = 512
TICK = 0.01


class Wires:
    """Moves frames between hubs at once and without loss."""

    def __init__(self) -> None:
        self.now = 100.0
        self._hubs: dict[str, Hub] = {}
        self._ports: dict[tuple[str, str], tuple[str, str]] = {}
        self._incarnations = 0
        self.cut: set[str] = set()
        """Names that nothing reaches and nothing leaves."""

    def hub(self, kind: str, name: str) -> Hub:
        self._incarnations += 1
        hub = Hub(Identity(kind, name, 0, f"i{self._incarnations}"), lambda: self.now, rng=random.Random(name))
        self._hubs[name] = hub
        return hub

    def connect(self, dialer: str, port: str, listener: str, listening: str) -> None:
        self._ports[dialer, port] = (listener, listening)

    def kill(self, name: str) -> None:
        """The process dies, and everybody's process watch sees it."""
        hub = self._hubs.pop(name, None)
        if hub is None:
            return
        for other in self._hubs.values():
            for peer in other.peers():
                if peer.name == name and peer.identity.incarnation == hub.identity.incarnation:
                    other.lost(peer, PeerLost(f"{name} was killed"))

    def move(self) -> bool:
        """Deliver what is under way. True if anything was."""
        moved = False
        for name, hub in list(self._hubs.items()):
            for item in hub.outgoing():
                moved = True
                frames = [bytes(frame) for frame in item.frames]
                if name in self.cut:
                    continue
                if (name, item.port) in self._ports:
                    target, port = self._ports[name, item.port]
                    if target in self._hubs and target not in self.cut:
                        self._hubs[target].receive(port, f"{name}/{item.port}".encode(), frames)
                elif item.route:
                    back, _, port = item.route.decode().rpartition("/")
                    if back in self._hubs and back not in self.cut:
                        self._hubs[back].receive(port, b"", frames)
        return moved

    def tick(self) -> None:
        for hub in list(self._hubs.values()):
            hub.tick()


class Gateway:
    """Records events; durable and consumed follow them unless told otherwise."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hub = world.wires.hub("gateway", "gateway")
        self.hub.listen("runners")
        self.hub.on(Announce, self._announce)
        self.hub.on(Events, self._events)
        self.hub.on(RunnerLoad, self._load)
        self.hub.on(LaunchChild, self._launch_child)
        self.hub.on(EndChild, lambda m: self.ended.append(m.message.pid))
        self.hub.on(DetachChild, lambda m: self.detached.append(m.message.pid))
        self.hub.on_up(self._up)
        self.runner: Peer | None = None
        self.announced: list[Announce] = []
        self.loads: list[RunnerLoad] = []
        self.launches: list[LaunchChild] = []
        self.ended: list[str] = []
        """Children that their parent cancelled."""
        self.detached: list[str] = []
        self.refuses_children: PieError | None = None
        self.pushes = 0
        self.refuses: PieError | None = None
        """What announcements are answered with, if anything."""
        self.stores = True
        """Make events durable as they come."""
        self.consumes = True
        """Have a client that consumes all of them."""

    def _up(self, peer: Peer) -> None:
        self.runner = peer

    def _announce(self, incoming: Incoming[Announce]) -> Recovered:
        self.announced.append(incoming.message)
        if self.refuses is not None:
            raise self.refuses
        logs = self.world.logs
        known = [p.pid for p in incoming.message.processes if p.pid in logs]
        return Recovered({pid: len(logs[pid]) for pid in known}, {pid: len(logs[pid]) for pid in known})

    def _events(self, incoming: Incoming[Events]) -> None:
        self.pushes += 1
        message = incoming.message
        at = 0
        for pid, count in zip(message.pids, message.counts, strict=True):
            log = self.world.logs.setdefault(pid, [])
            for event in message.events[at : at + count]:
                if self.stores and event.seq == len(log) + 1:
                    log.append(event)
            at += count
        if self.stores:
            self.credit(*message.pids)

    def _launch_child(self, incoming: Incoming[LaunchChild]) -> Launched:
        self.launches.append(incoming.message)
        if self.refuses_children is not None:
            raise self.refuses_children
        return Launched(incoming.message.pid, incoming.message.program)

    def child_ended(self, launch: LaunchChild, result: str = "", error: PieError | None = None) -> None:
        """A child's end, as the gateway tells it."""
        assert self.runner is not None
        info = error.info() if error else None
        self.hub.send(self.runner, ChildEnded(launch.parent, launch.pid, result, info))

    def _load(self, incoming: Incoming[RunnerLoad]) -> None:
        self.loads.append(incoming.message)

    def credit(self, *pids: str, consumed: int | None = None) -> None:
        """Report progress of these logs."""
        durable = [len(self.world.logs[pid]) for pid in pids]
        seen = [n if self.consumes else 0 for n in durable] if consumed is None else [consumed for _ in pids]
        if self.runner is not None:
            self.hub.send(self.runner, Credit(list(pids), durable, seen))


class Kvstore:
    """Members, artifacts and snapshots in dictionaries."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hub = world.wires.hub("kvstore", "kvstore")
        self.hub.listen("kvstore")
        self.hub.on(Join, self._join)
        self.hub.on(Renew, lambda _: None)
        self.hub.on(GetArtifact, self._artifact)
        self.hub.on(PutArtifact, self._put_data)
        self.hub.on(PutPages, lambda _: Done())
        self.hub.on(PutSnapshot, self._put)
        self.hub.on(GetSnapshot, self._get)
        self.hub.on(DeleteSnapshot, self._delete)
        self.artifact_requests = 0

    def _join(self, incoming: Incoming[Join]) -> Joined:
        self.world.epochs += 1
        self.hub.send(incoming.peer, Members(self.world.epochs, self.world.members()))
        return Joined(self.world.epochs, 3000)

    def announce(self) -> None:
        self.world.epochs += 1
        for peer in self.hub.peers():
            self.hub.send(peer, Members(self.world.epochs, self.world.members()))

    def _put_data(self, incoming: Incoming[PutArtifact]) -> ArtifactState:
        message, user = incoming.message, incoming.scope.user
        assert message.snapshot
        so_far = self.world.archives.setdefault((user, message.sha256), b"")
        if message.offset == len(so_far):
            self.world.archives[user, message.sha256] = so_far + bytes(incoming.buffers[0])
        stored = len(self.world.archives[user, message.sha256])
        return ArtifactState(stored, stored == message.size)

    def _artifact(self, incoming: Incoming[GetArtifact]) -> None:
        self.artifact_requests += 1
        if incoming.message.snapshot:
            data = self.world.archives.get((incoming.scope.user, incoming.message.sha256))
        else:
            data = self.world.artifacts.get(incoming.message.sha256)
        if data is None:
            raise NotFound("no such artifact")
        offset = incoming.message.offset
        incoming.reply(ArtifactChunk(len(data), offset), buffers=[data[offset : offset + self.world.chunk]])

    def _put(self, incoming: Incoming[PutSnapshot]) -> Done:
        snapshot = incoming.message.snapshot
        self.world.snapshots[incoming.scope.user, snapshot.name] = snapshot
        return Done()

    def _get(self, incoming: Incoming[GetSnapshot]) -> SnapshotRow:
        key = (incoming.scope.user, incoming.message.name)
        if key not in self.world.snapshots:
            raise NotFound("no such snapshot")
        row = SnapshotRow(self.world.snapshots[key])
        if incoming.message.take:
            if incoming.message.data != row.snapshot.data:
                raise Conflict("replaced meanwhile")
            del self.world.snapshots[key]
        return row

    def _delete(self, incoming: Incoming[DeleteSnapshot]) -> Done:
        if self.world.snapshots.pop((incoming.scope.user, incoming.message.name), None) is None:
            raise NotFound("no such snapshot")
        return Done()


class Engine:
    """The real core over a device without a model."""

    def __init__(self, world: World, name: str, files: dict[str, bytes], pages: int) -> None:
        self.hub = world.wires.hub("engine", name)
        self.hub.listen("runners")
        self.device = SimulatedDevice(pages, PAGE, VOCAB)
        size = self.device.page_bytes
        limits = Limits(pages=pages, page_size=PAGE, max_context=MAX_CONTEXT, vocab=VOCAB, page_bytes=size)
        facts = ModelFacts("tiny", VOCAB, MAX_CONTEXT, PAGE, eos=[2])
        self.core = EngineCore(self.hub, facts, files, "sim", limits, lambda: 0.0)
        self.fails: Exception | None = None
        self.paused = False

    def step(self) -> None:
        if self.paused:
            return
        self.core.apply()
        batch = self.core.plan()
        if batch is None:
            return
        if self.fails is not None:
            error, self.fails = self.fails, None
            self.core.fail(error)
        else:
            self.core.finish(self.device.execute(batch), 0.01)

    def load_adapter(self, name: str) -> None:
        """As if the operator had loaded it."""
        adapter = SimulatedAdapter(name.encode())
        requests = self.core.adapters
        version, _ = requests._table.add(name, adapter.facts)
        self.device.keep_adapter(version.slot, adapter)

    @property
    def pages_owned(self) -> int:
        self.core.check_integrity()
        return self.core.pool_stats().owned

    @property
    def contexts(self) -> int:
        return int(self.core.stats()["contexts"])


class World:
    """Everything, with time under control."""

    def __init__(
        self,
        files: dict[str, bytes],
        limits: ProcessLimits | None = None,
        http: HttpSettings | None = None,
        tenants: TenantTable | None = None,
        mcp: McpServers | None = None,
    ) -> None:
        self.files = files
        self.limits = limits
        self.tenants = tenants
        self.wires = Wires()
        self.epochs = 0
        self.chunk = 64
        self.artifacts: dict[str, bytes] = {}
        self.snapshots: dict[tuple[str, str], Snapshot] = {}
        self.archives: dict[tuple[str, str], bytes] = {}
        """Data of snapshots, by user and digest."""
        self.logs: dict[str, list[Event]] = {}
        """Durable events, as gateways (this one and its successors) hold them."""
        self.engines: dict[str, Engine] = {}
        self.programs: dict[str, Any] = {}
        self.kvstore = Kvstore(self)
        self.gateway = Gateway(self)
        self.host: Any = CoroutineHost(TABLE, self.programs)
        self.host.programs = self.programs
        self.offloads: list[Callable[[], None]] = []
        self.hold_offloads = False
        self.aside = Aside(lambda: None)
        self.addresses: dict[str, list[str]] = {}
        """What names mean to programs."""
        self.http = HttpShared(http or HttpSettings(), lambda _: self._resolve)
        self.mcp = mcp or McpServers({})
        self.rooms: FileRooms | None = None
        self._disks = 0
        self.runner = self._runner()

    def _runner(self, **given: Any) -> RunnerCore:
        hub = self.wires.hub("runner", "runner")
        self.wires.connect("runner", "kvstore", "kvstore", "kvstore")
        self.wires.connect("runner", "gateway", "gateway", "runners")
        hub.dial("kvstore")
        hub.dial("gateway")
        return RunnerCore(
            hub,
            host=self.host,
            cache=MemoryCache(),
            dialer=self,
            offload=self._offload,
            random_bytes=random.Random(7).randbytes,
            wall=lambda: self.wires.now,
            outside=OutsideFacilities(self.aside, self.http, self.rooms, self.mcp),
            capacity=8,
            limits=self.limits,
            tenants=self.tenants,
            **given,
        )

    def restart_runner(self, **given: Any) -> None:
        """A new runner, with these settings of its core besides."""
        self.wires.kill("runner")
        self.runner = self._runner(**given)

    def allow(self, **limits: float) -> None:
        """Processes have these limits, from when none of their tenant runs."""
        self.limits = dataclasses.replace(self.limits or ProcessLimits(), **cast(Any, limits))
        self.runner.facilities.tenants._process_limits = self.limits

    def _offload(self, work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
        def go() -> None:
            try:
                result = work()
            except Exception as exc:  # noqa: BLE001 - as a worker thread would
                then(None, exc)
            else:
                then(result, None)

        self.offloads.append(go)

    async def _resolve(self, host: str, port: int) -> list[Address]:
        if host not in self.addresses:
            raise OSError("no such name")
        return [ipaddress.ip_address(text) for text in self.addresses[host]]

    def dial(self, port: str, endpoint: str) -> None:
        """Dialer of the runner: endpoints are names here."""
        self.wires.connect("runner", port, endpoint, "runners")
        self.runner.hub.dial(port)

    def hang_up(self, port: str) -> None:
        self.runner.hub.hang_up(port, PeerLost("hung up"))

    def members(self) -> list[MemberInfo]:
        return [MemberInfo("engine", name, 1, endpoint=name) for name in self.engines]

    def add_engine(self, name: str = "engine", pages: int = 256) -> Engine:
        engine = self.engines[name] = Engine(self, name, self.files, pages)
        self.kvstore.announce()
        return engine

    @property
    def engine(self) -> Engine:
        return next(iter(self.engines.values()))

    # -- time

    def turn(self) -> None:
        """One loop turn of everybody."""
        self.wires.now += TICK
        self.wires.tick()
        while self.wires.move():
            pass
        self.aside.drain()
        self.runner.tick()
        if not self.hold_offloads:
            offloads, self.offloads = self.offloads, []
            for go in offloads:
                go()
        self.host.run_ready()
        self.runner.flush()
        while self.wires.move():
            pass
        for engine in self.engines.values():
            engine.step()

    def run(self, until: Callable[[], bool] | float, limit: float = 60.0) -> None:
        """Turn until a condition holds, or for so many simulated seconds."""
        end = self.wires.now + (until if isinstance(until, float) else limit)
        while self.wires.now < end:
            if callable(until) and until():
                return
            self.turn()
        if callable(until) and not until():
            pytest.fail(f"not within {limit} simulated seconds")

    def run_in_real_time(self, until: Callable[[], bool], seconds: float = 15.0) -> None:
        """The same where the answers come from real servers, which have a time of their own."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                pytest.fail(f"not within {seconds} s")
            self.wires.now -= TICK - 0.001  # a turn is about a millisecond here, as it is for the servers
            self.turn()
            time.sleep(0.001)

    def keep_files(self, home: Path) -> None:
        """Start the runner anew, with a disk."""
        self._disks += 1
        self.rooms = FileRooms(home, f"runner-{self._disks}", self._offload)
        self.restart_runner()

    # -- what a gateway does

    def install(self, name: str, main: Any) -> ProgramRef:
        """A coroutine, or Python source for a world that runs Wasm."""
        self.programs[name] = main
        source = main.encode() if isinstance(main, str) else f"program {name}".encode() * 20
        return self.store(name, source)

    def store(self, name: str, artifact: bytes, kind: ProgramKind = "python") -> ProgramRef:
        """An artifact in kvstore."""
        sha256 = hashlib.sha256(artifact).hexdigest()
        self.artifacts[sha256] = artifact
        return ProgramRef(name, "0.1.0", kind, sha256)

    def start(
        self, main: Any, pid: str = "p1", text: str = "{}", name: str = "", tenant: str = "local", **fields: Any
    ) -> list[Any]:
        """Start a program; returns the list its Start's answer goes to."""
        ref = self.install(name or f"prog-{pid}", main)
        return self.send_start(Start(pid, ref, text, **fields), tenant)

    def send_start(self, start: Start, tenant: str = "local") -> list[Any]:
        self.run(lambda: self.runner.uplink.connected)
        answers: list[Any] = []
        assert self.gateway.runner is not None
        self.gateway.hub.request(self.gateway.runner, start, answers.append, timeout=5.0, scope=Scope(tenant))
        return answers

    def push(self, message: Kill) -> None:
        assert self.gateway.runner is not None
        self.gateway.hub.send(self.gateway.runner, message)

    def deliver(self, message: Deliver, *buffers: bytes) -> list[Any]:
        answers: list[Any] = []
        assert self.gateway.runner is not None
        self.gateway.hub.request(self.gateway.runner, message, answers.append, timeout=5.0, buffers=buffers)
        return answers

    def log(self, pid: str = "p1") -> list[Event]:
        return self.logs.get(pid, [])

    def ended(self, pid: str = "p1") -> bool:
        return bool(self.log(pid)) and self.log(pid)[-1].kind in ("return", "error")

    def outcome(self, main: Any, *, real_time: bool = False, **fields: Any) -> Event:
        """Run a program to its end; its last event. Checks what must hold of any log."""
        pid = fields.get("pid", "p1")
        self.start(main, **fields)
        (self.run_in_real_time if real_time else self.run)(lambda: self.ended(pid))
        log = self.log(pid)
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert [event.kind in ("return", "error") for event in log] == [False] * (len(log) - 1) + [True]
        return log[-1]

    def restart_gateway(self) -> None:
        """A new gateway with what the old one had made durable."""
        self.wires.kill("gateway")
        self.gateway = Gateway(self)


class MemoryCache:
    """An ArtifactCache."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}

    def has(self, sha256: str) -> bool:
        return sha256 in self.items

    def read(self, sha256: str) -> bytes:
        return self.items[sha256]

    def write(self, sha256: str, data: bytes) -> None:
        self.items[sha256] = data
