"""A whole Pie in one process: the real cores of all services on a lossy network, with clients that keep count."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import msgspec
from network import Faults, Network, Node
from pie_engine.core import EngineCore
from pie_engine.limits import Limits
from pie_engine.simulation.simulated import SimulatedDevice
from pie_gateway.config import GatewayConfig
from pie_gateway.core import GatewayCore
from pie_gateway.memory_log import MemoryEventLog
from pie_gateway.policy import Policy, Rule
from pie_kvstore.core import KvstoreCore
from pie_runner.core import RunnerCore
from pie_runner.host import TABLE
from pie_runner.outside.aside import Aside
from pie_runner.outside.http_client import HttpSettings, HttpShared
from pie_runner.outside.process_outside import OutsideFacilities
from pie_runner.testing import CoroutineHost
from pie_wire.capabilities import Grants
from pie_wire.errors import NotFound, PieError
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.membership import Membership
from pie_wire.messages.client import ProcessEvents, Replaced
from pie_wire.messages.common import TERMINAL_KINDS, Event, ModelFacts, ProgramRef
from pie_wire.messages.gateway import AckEvents, Attach, Attached, Launch, Launched, Signal, Terminate
from pie_wire.messages.kvstore import InstallProgram, PutArtifact
from programs import PROGRAMS

VOCAB = 256
PAGES = 64
PAGE_SIZE = 4
POLICY = Policy((Rule(Grants(children=True)),))


def tokenizer_file() -> bytes:
    """The smallest tokenizer.json there is: one token per id."""
    vocabulary = {f"t{number}": number for number in range(VOCAB)}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"},
        }
    ).encode()


@dataclass
class Ticker:
    """Adapts anything with work to do each turn to the network's `Core`."""

    turn: Callable[[], None]

    def tick(self) -> None:
        self.turn()


@dataclass
class Held:
    """What a client knows of one process."""

    pid: str
    program: str
    input: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    launched: bool = False
    failed: PieError | None = None
    signals: int = 0

    @property
    def ended(self) -> bool:
        return self.failed is not None or bool(self.events and self.events[-1].kind in TERMINAL_KINDS)

    @property
    def messages(self) -> list[str]:
        return [e.text for e in self.events if e.kind == "message"]


class ModelClient:
    """Launches until answered (the same id each time), attaches after every loss, checks every number."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.held: dict[str, Held] = {}
        self.violations: list[str] = []
        self._retry: dict[str, float] = {}
        self._busy: set[str] = set()
        hub.on(ProcessEvents, self._events)
        hub.on(Replaced, lambda incoming: None)
        hub.on_up(self._up)

    def launch(self, program: str, given: dict[str, Any]) -> Held:
        pid = hashlib.sha256(f"{self.hub.identity.name}{len(self.held)}".encode()).hexdigest()[:32]
        held = self.held[pid] = Held(pid, program, given)
        return held

    def signal(self, held: Held, text: str, then: Callable[[Answer[Any]], None]) -> None:
        self.hub.request("gateway", Signal(held.pid, text), then, timeout=5.0)

    def terminate(self, held: Held) -> None:
        self.hub.request("gateway", Terminate(held.pid), lambda _: None, timeout=5.0)

    def tick(self) -> None:
        for held in self.held.values():
            due = self.hub.clock() >= self._retry.get(held.pid, 0.0)
            if held.ended or held.pid in self._busy or not due:
                continue
            if not held.launched:
                self._busy.add(held.pid)
                message = Launch(held.pid, held.program, json.dumps(held.input))
                self.hub.request("gateway", message, lambda a, h=held: self._launched(h, a), timeout=3.0)
            elif self._retry.get(held.pid, 0.0) > 0.0:
                self._busy.add(held.pid)
                message = Attach(held.pid, len(held.events) + 1)
                self.hub.request("gateway", message, lambda a, h=held: self._attached(h, a), timeout=3.0)

    def _launched(self, held: Held, answer: Answer[Launched]) -> None:
        self._busy.discard(held.pid)
        if answer.error is None:
            held.launched = True
            self._retry[held.pid] = self.hub.clock() if answer.value().again else 0.0
        elif answer.error.retryable:
            self._retry[held.pid] = self.hub.clock() + 0.2
        else:
            held.failed = answer.error

    def _attached(self, held: Held, answer: Answer[Attached]) -> None:
        self._busy.discard(held.pid)
        if answer.error is None:
            self._retry[held.pid] = 0.0
        elif answer.error.retryable:
            self._retry[held.pid] = self.hub.clock() + 0.2
        else:
            if isinstance(answer.error, NotFound):
                self.violations.append(f"{held.pid}: the gateway forgot a launched process: {answer.error}")
            held.failed = answer.error

    def _up(self, peer: Peer) -> None:
        for held in self.held.values():
            if held.launched and not held.ended:
                self._retry[held.pid] = self.hub.clock()

    def _events(self, incoming: Incoming[ProcessEvents]) -> None:
        message, at = incoming.message, 0
        for pid, count in zip(message.pids, message.counts, strict=True):
            self._take(incoming.peer, pid, message.events[at : at + count])
            at += count

    def _take(self, peer: Peer, pid: str, events: list[Event]) -> None:
        held = self.held[pid]
        for event in events:
            if event.seq <= len(held.events):
                if held.events[event.seq - 1] != event:
                    self.violations.append(f"{held.pid}: event {event.seq} changed")
                continue
            if event.seq != len(held.events) + 1:
                self.violations.append(f"{held.pid}: event {event.seq} after {len(held.events)}")
                continue
            if held.ended:
                self.violations.append(f"{held.pid}: event {event.seq} after the terminal one")
            held.events.append(event)
        self.hub.send(peer, AckEvents([held.pid], [len(held.events)]))


class MemoryArtifacts:
    """A runner's artifact cache."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def has(self, sha256: str) -> bool:
        return sha256 in self._data

    def read(self, sha256: str) -> bytes:
        return self._data[sha256]

    def write(self, sha256: str, data: bytes) -> None:
        self._data[sha256] = data


class Dialer:
    """Engines' endpoints are their node names."""

    def __init__(self, network: Network, node: Node) -> None:
        self._network = network
        self._node = node

    def dial(self, port: str, endpoint: str) -> None:
        self._network.dial(self._node, port, endpoint, "runners")

    def hang_up(self, port: str) -> None:
        self._node.hub.hang_up(port, NotFound("no longer listed"))


class World:
    """kvstore, gateway, engine, runners and clients; any of them can be killed and restarted."""

    def __init__(self, seed: int, faults: Faults, *, runners: int = 2, clients: int = 2, pages: int = PAGES) -> None:
        self.network = Network(seed, faults)
        self.redis = fakeredis.FakeServer()
        self.log = MemoryEventLog()
        self.pages = pages
        self.engine: EngineCore
        self.kvstore: KvstoreCore
        self.gateway: GatewayCore
        self.runners: dict[str, RunnerCore] = {}
        self.clients: list[ModelClient] = []
        self._bytes = itertools.count()
        self.start_kvstore()
        self._install()
        self.start_engine()
        self.start_gateway()
        for number in range(runners):
            self.start_runner(f"runner-{number}")
        for number in range(clients):
            self._start_client(f"client-{number}")

    # -- services

    def start_kvstore(self) -> None:
        node = self.network.spawn("kvstore", "kvstore")
        self.kvstore = KvstoreCore(
            node.hub, fakeredis.FakeRedis(server=self.redis), now=lambda: self.network.now, is_dead=self._is_dead
        )
        node.core = self.kvstore

    def start_engine(self) -> None:
        node = self.network.spawn("engine", "engine-0")
        node.hub.listen("runners")
        self.network.dial(node, "kvstore", "kvstore", "kvstore")
        facts = ModelFacts("simulated", VOCAB, 512, PAGE_SIZE)
        limits = Limits(self.pages, PAGE_SIZE, 512, VOCAB)
        core = EngineCore(
            node.hub, facts, {"tokenizer.json": tokenizer_file()}, "model", limits, lambda: self.network.now
        )
        device = SimulatedDevice(self.pages, PAGE_SIZE, VOCAB)
        membership = Membership(node.hub, endpoint="engine-0", info={"model": "simulated"})
        membership.report(core.stats)

        def turn() -> None:
            membership.tick()
            core.apply()
            for _ in range(4):
                batch = core.plan()
                if batch is None:
                    break
                core.finish(device.execute(batch), 0.01)
            core.tick()

        self.engine = core
        node.core = Ticker(turn)

    def start_gateway(self) -> None:
        node = self.network.spawn("gateway", "gateway")
        node.hub.listen("clients")
        node.hub.listen("runners")
        self.network.dial(node, "kvstore", "kvstore", "kvstore")
        membership = Membership(node.hub, endpoint="gateway")
        config = GatewayConfig(data="", http_host="")
        self.gateway = GatewayCore(config, node.hub, self.log, membership, lambda: self.network.now, POLICY)
        node.core = self.gateway

    def start_runner(self, name: str) -> None:
        node = self.network.spawn("runner", name)
        host = CoroutineHost(TABLE, PROGRAMS)
        core = RunnerCore(
            node.hub,
            host=host,
            cache=MemoryArtifacts(),
            dialer=Dialer(self.network, node),
            offload=self._offload,
            random_bytes=self._random_bytes,
            wall=lambda: self.network.now,
            outside=OutsideFacilities(Aside(lambda: None), HttpShared(HttpSettings())),
        )
        self.network.dial(node, "kvstore", "kvstore", "kvstore")
        self.network.dial(node, "gateway", "gateway", "runners")
        self.runners[name] = core

        def turn() -> None:
            core.tick()
            host.run_ready()
            core.flush()

        node.core = Ticker(turn)

    def _start_client(self, name: str) -> None:
        node = self.network.spawn("client", name)
        self.network.dial(node, "gateway", "gateway", "clients")
        client = ModelClient(node.hub)
        node.core = client
        self.clients.append(client)

    def restart(self, name: str) -> None:
        """A new incarnation of a killed service."""
        if name == "kvstore":
            self.start_kvstore()
        elif name == "gateway":
            self.start_gateway()
        elif name == "engine-0":
            self.start_engine()
        else:
            self.start_runner(name)

    # -- what should hold

    def idle(self) -> bool:
        """Every client knows the end of all its processes, and the engine owns no page."""
        ended = all(held.ended for client in self.clients for held in client.held.values())
        return ended and self.engine.pool.owned == 0 and not any(r.live for r in self.runners.values())

    def check(self) -> None:
        """What must hold at rest, whatever has happened."""
        for client in self.clients:
            assert not client.violations, client.violations
            for held in client.held.values():
                terminals = [e for e in held.events if e.kind in TERMINAL_KINDS]
                assert len(terminals) == 1 or held.failed is not None, (held.pid, held.events[-3:], held.failed)
        self.engine.check_integrity()
        assert self.engine.pool.owned == 0
        rows = [row for engine in self.kvstore.pages.list() for row in engine.rows]
        assert rows == [], rows

    def held(self) -> Sequence[Held]:
        return [held for client in self.clients for held in client.held.values()]

    # -- inside

    def _install(self) -> None:
        """Programs are registered before anything can fail."""
        quiet, self.network.faults = self.network.faults, Faults()
        node = self.network.spawn("client", "installer")
        self.network.dial(node, "kvstore", "kvstore", "kvstore")
        answers: list[Answer[Any]] = []
        for name in PROGRAMS:
            data = name.encode()
            digest = hashlib.sha256(data).hexdigest()
            put = PutArtifact(digest, len(data), 0)
            node.hub.request("kvstore", put, answers.append, timeout=5.0, buffers=[data])
            manifest = "[capabilities]\nchildren = true\n"
            install = InstallProgram(ProgramRef(name, "1.0.0", "python", digest), manifest)
            node.hub.request("kvstore", install, answers.append, timeout=5.0)
        assert self.network.run(10.0, lambda: len(answers) == 2 * len(PROGRAMS))
        for answer in answers:
            answer.value()
        self.network.kill("installer")
        del self.network.nodes["installer"]
        self.network.faults = quiet

    def _is_dead(self, who: msgspec.Struct) -> bool:
        node = self.network.nodes.get(getattr(who, "name", ""))
        return node is not None and (not node.alive or node.hub.identity.incarnation != getattr(who, "incarnation", ""))

    def _offload(self, work: Callable[[], object], then: Callable[[object, Exception | None], None]) -> None:
        try:
            result, error = work(), None
        except PieError as exc:
            result, error = None, exc
        self.network.later(0.01, lambda: then(result, error))

    def _random_bytes(self, count: int) -> bytes:
        return hashlib.shake_128(str(next(self._bytes)).encode()).digest(count)
