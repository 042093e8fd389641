"""The runner without its sockets, threads and Wasm: messages, ticks and a clock in, messages out through the hub.

One turn of the shell's loop:

      transport.poll -> handlers here -> ready programs run, calling host functions -> flush -> transport.flush
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import structlog
from pie_wire.errors import NotFound, Overloaded, PieError, StaleEpoch, Terminated, Unavailable, to_error
from pie_wire.hub import Hub, Incoming, Peer
from pie_wire.membership import KVSTORE, Facts, Membership
from pie_wire.messages.base import Done
from pie_wire.messages.runner import Credit, Deliver, DeliverFile, Kill, Start
from pie_wire.tenants import TenantLimits, TenantTable

from pie_runner.artifacts import ArtifactCache, Artifacts
from pie_runner.children import Children
from pie_runner.engines import Dialer, Engines, Offload
from pie_runner.facilities import Facilities
from pie_runner.grammars.compiler import GrammarCompiler
from pie_runner.mailbox import Letter
from pie_runner.messaging.post import Post
from pie_runner.outside.process_outside import OutsideFacilities
from pie_runner.process import Process
from pie_runner.process_limits import ProcessLimits
from pie_runner.programs import ProgramHost
from pie_runner.tenants import Tenants
from pie_runner.timers import Timers
from pie_runner.turns import Turns
from pie_runner.uplink import PORT as GATEWAY
from pie_runner.uplink import Uplink

LOAD_EVERY = 1.0
MAX_REMEMBERED = 65_536
"""Ended pids whose Start, repeated, is still recognised."""

log = structlog.get_logger("pie.runner")


class RunnerCore:
    """See the module's text. Dials the ports `kvstore` and `gateway`, whose sockets the caller opens, and those of
    engines, whose sockets `dialer` opens."""

    def __init__(
        self,
        hub: Hub,
        *,
        host: ProgramHost,
        cache: ArtifactCache,
        dialer: Dialer,
        offload: Offload,
        random_bytes: Callable[[int], bytes],
        wall: Callable[[], float],
        outside: OutsideFacilities,
        capacity: int = 512,
        check_room: Callable[[], None] | None = None,
        dedicated: frozenset[str] = frozenset(),
        window: int = 32,
        model_wait: float = 10.0,
        limits: ProcessLimits | None = None,
        tenants: TenantTable | None = None,
        backend: str = "",
        grammars: GrammarCompiler | None = None,
    ) -> None:
        """`backend` names what runs the programs, for the member list. `offload` has one thread. Without `grammars`
        they are compiled by way of it. Programs of other tenants than `dedicated` are refused, if it names any; so are
        all when `check_room` raises Overloaded."""
        self.hub = hub
        self.host = host
        self.capacity = capacity
        self._check_room = check_room
        self.processes: dict[str, Process] = {}
        """Running ones, and ended ones whose events are not all durable."""
        self.live = 0
        """Those that have not ended."""
        self.timers = Timers()
        self.engines = Engines(hub, dialer, offload)
        self.artifacts = Artifacts(hub, cache)
        self.dedicated = dedicated
        facts: Facts = {"backend": backend, "capacity": capacity}
        if dedicated:
            facts["tenants"] = ", ".join(sorted(dedicated))
        self.membership = Membership(hub, info=facts)
        self.membership.report(self._stats)
        self.membership.on_change(self.engines.update)
        self.children = Children(hub, lambda: self.uplink.peer, lambda: random_bytes(16).hex())
        self.post = Post(hub, self.timers)
        self.uplink = Uplink(hub, self.processes, capacity, dedicated, self._forget, self.children.recovered)
        self.facilities = Facilities(
            name=hub.identity.name,
            hub=hub,
            engines=self.engines,
            children=self.children,
            post=self.post,
            timers=self.timers,
            threads=Turns(offload, 1),
            grammars=grammars or GrammarCompiler(offload),
            wall=wall,
            window=window,
            model_wait=model_wait,
            tenants=Tenants(tenants or TenantTable(TenantLimits()), limits or ProcessLimits()),
            outside=outside,
        )
        self._random_bytes = random_bytes
        self._remembered: OrderedDict[str, None] = OrderedDict()
        self._next_load = 0.0
        self._lag = 0.0
        self._stopping = False
        hub.on_up(self._up)
        hub.on_down(self._down)
        hub.on(Start, self._start)
        hub.on(Deliver, self._deliver)
        hub.on(DeliverFile, self._deliver_file)
        hub.on(Kill, self._kill)
        hub.on(Credit, self._credit)

    # -- the loop

    def tick(self) -> None:
        """Time passes, and what came is taken in. Call every turn; at least every 100 ms."""
        now = self.hub.clock()
        self.timers.run(now)
        for port in (KVSTORE, GATEWAY):
            if self.hub.peer(port) is None:
                self.hub.dial(port)  # remakes a link that was given up
        self.membership.tick()
        self.uplink.tick(now)
        self.engines.tick()
        self.engines.drain()
        if now >= self._next_load:
            self._next_load = now + LOAD_EVERY
            self.uplink.load(self.live, self._lag * 1000)
            self._lag = 0.0

    def flush(self, *, busy: bool = False) -> None:
        """End of a turn: consumption, operations and events leave in one message for each peer. `busy`: more programs
        are ready to run, for whose events those that there are may wait a moment."""
        self.engines.flush()
        self.uplink.flush(self.hub.clock(), busy=busy)

    def next_due(self) -> float | None:
        """Clock time until which nothing will happen without a message."""
        due = [at for at in (self.timers.next_at(), self.uplink.due_at()) if at is not None]
        return min(due, default=None)

    def observe_lag(self, seconds: float) -> None:
        """How long a turn took; the worst one of a second is reported."""
        self._lag = max(self._lag, seconds)

    def stop(self) -> None:
        """Take nothing new and end everything; events still leave while the shell goes on polling."""
        self._stopping = True
        for process in list(self.processes.values()):
            process.kill(Terminated("the runner was shut down"))

    @property
    def is_superseded(self) -> bool:
        """Another incarnation has this runner's name: this one must stop."""
        return self.membership.is_superseded or isinstance(self.hub.refusal(GATEWAY), StaleEpoch)

    @property
    def is_settled(self) -> bool:
        """Everything has ended and all its events are durable."""
        return not self.processes

    # -- handlers

    def _start(self, incoming: Incoming[Start]) -> Done:
        start = incoming.message
        if start.pid in self.processes or start.pid in self._remembered:
            return Done()
        if self._stopping:
            raise Overloaded("this runner is shutting down")
        tenant = incoming.scope.tenant
        if self.dedicated and tenant not in self.dedicated:
            mine = ", ".join(sorted(self.dedicated))
            raise Unavailable(f"this runner is dedicated to {mine} and takes nothing of tenant {tenant}: use another")
        if self.live >= self.capacity:
            raise Overloaded(f"this runner has {self.live} processes, as many as it may")
        if self._check_room is not None:
            self._check_room()
        process = Process(start, incoming.scope, self.facilities, self, self._random_bytes(16))
        self.processes[start.pid] = process
        self.live += 1
        try:
            process.stop_fetching = self.artifacts.ensure(
                start.program.sha256, lambda error: self._fetched(process, error)
            )
        except PieError:
            del self.processes[start.pid]
            self.live -= 1
            self.facilities.tenants.leave(process.usage.end())
            raise
        return Done()

    def _fetched(self, process: Process, error: PieError | None) -> None:
        if process.state != "fetching":
            return
        if error is not None:
            process.end(error)
            return
        process.state = "starting"
        sha256 = process.ref.sha256
        try:
            process.program = self.host.start(
                process, lambda: self.artifacts.cache.read(sha256), process.running, process.exited
            )
        except Exception as exc:
            if not isinstance(exc, PieError):
                log.exception("a program could not be started", pid=process.pid)
            process.end(to_error(exc))

    def _deliver(self, incoming: Incoming[Deliver]) -> Done:
        message = incoming.message
        process = self.processes.get(message.pid)
        if process is None or process.state == "ended":
            raise NotFound(f"process {message.pid} is not running")
        if message.binary:
            data = bytes(incoming.buffers[0]) if incoming.buffers else b""
            process.mailbox.deliver(Letter("data", data))
        else:
            process.mailbox.deliver(Letter("text", message.text))
        return Done()

    def _deliver_file(self, incoming: Incoming[DeliverFile]) -> Done:
        message = incoming.message
        process = self.processes.get(message.pid)
        if process is None or process.state == "ended":
            raise NotFound(f"process {message.pid} is not running")
        part = incoming.buffers[0] if incoming.buffers else b""
        process.files.put(message.file, message.name, message.size, message.offset, part)
        return Done()

    def _kill(self, incoming: Incoming[Kill]) -> None:
        process = self.processes.get(incoming.message.pid)
        if process is not None:
            process.kill(Terminated(incoming.message.reason))

    def _credit(self, incoming: Incoming[Credit]) -> None:
        self.uplink.credit(incoming.message)

    def _up(self, peer: Peer) -> None:
        if peer.port == GATEWAY:
            self.uplink.up(peer)
        elif peer.port == KVSTORE:
            self.post.up()

    def _down(self, peer: Peer, cause: PieError) -> None:
        if peer.port == GATEWAY:
            self.uplink.down(peer)
        elif peer.port == KVSTORE:
            log.warning("kvstore is away", reason=cause.message)

    # -- what processes report

    def written(self, process: Process) -> None:
        """Watcher: new events."""
        self.uplink.written(process)

    def ended(self, process: Process) -> None:
        """Watcher: the terminal event is written."""
        self.live -= 1
        self.hub.progress += 1

    def _forget(self, process: Process) -> None:
        if self.processes.pop(process.pid, None) is not None:
            self.uplink.drop(process)
            self._remembered[process.pid] = None
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    def _stats(self) -> Facts:
        return {
            "live": self.live,
            "capacity": self.capacity,
            "lag_ms": round(self._lag * 1000, 1),
            "wasted_tokens": self.engines.wasted(),
        }
