"""Launches: resolve the program, find a runner with room, start. Each id is executed at most once.

launch --resolve, locate--> queue --place--> starting --runner says done--> running
                      |                  |
                      deadline:          refused before anything ran: back to the queue
                      overloaded         lost or unknown: the process ends with `process_lost`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from pie_wire.capabilities import Capabilities, Grants, checked
from pie_wire.errors import (
    BadField,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    Gone,
    LimitExceeded,
    NotFound,
    Overloaded,
    PeerLost,
    PieError,
    ProcessLost,
    Terminated,
    TooLarge,
    Unavailable,
    Unsupported,
)
from pie_wire.hub import Answer, Hub, Scope
from pie_wire.lines import Lines
from pie_wire.messages.base import Done
from pie_wire.messages.common import MAX_INPUT_BYTES
from pie_wire.messages.gateway import Launch, Launched
from pie_wire.messages.kvstore import LocateSnapshot, SnapshotPlace
from pie_wire.messages.runner import Start
from pie_wire.tenants import TenantTable

from pie_gateway.config import GatewayConfig
from pie_gateway.launch_room import LaunchRoom
from pie_gateway.lineage import Lineage
from pie_gateway.policy import Policy
from pie_gateway.process import Process
from pie_gateway.programs import ProgramCatalogue, Resolved
from pie_gateway.record import ProcessRecord, fingerprint
from pie_gateway.runners import Runner, RunnerPool
from pie_gateway.session import Call, Session
from pie_gateway.store import Store
from pie_gateway.streams import EventStreams
from pie_gateway.table import ProcessTable

PID = re.compile(r"[0-9a-f]{32}")
MAX_FILENAME = 200
MAX_NAME = 200
"""Characters of a snapshot's name."""

log = structlog.get_logger("pie.gateway")


@dataclass(eq=False)
class _Pending:
    """A launch that no runner has confirmed yet."""

    launch: Launch
    scope: Scope
    fingerprint: bytes
    calls: list[Call[Launch]]
    deadline: float
    program: Resolved | None = None
    process: Process | None = None
    """Set once it has been placed."""
    lineage: Lineage | None = None
    """Set if a program launches it."""
    home: str = ""
    """Name of the engine that is to be its home, if that is known."""


class Launcher:
    def __init__(
        self,
        config: GatewayConfig,
        hub: Hub,
        table: ProcessTable,
        streams: EventStreams,
        runners: RunnerPool,
        programs: ProgramCatalogue,
        store: Store,
        policy: Policy,
        tenants: TenantTable,
        wall: Callable[[], float],
    ) -> None:
        self._config = config
        self._hub = hub
        self._table = table
        self._streams = streams
        self._runners = runners
        self._programs = programs
        self._store = store
        self._policy = policy
        self._tenants = tenants
        self._wall = wall
        self._room = LaunchRoom(config.queue)
        self._pending: dict[str, _Pending] = {}
        self._queue: Lines[_Pending] = Lines()
        """Those of `_pending` that wait for a runner."""
        streams.on_end(self._ended)

    @property
    def queued(self) -> int:
        return len(self._queue)

    def launch(self, call: Call[Launch], lineage: Lineage | None = None) -> None:
        """Accept a launch, or join the one with the same id. `lineage` is that of a program's launch.

        Raises:
            BadField, TooLarge, Forbidden, Conflict, Gone, LimitExceeded, Overloaded
        """
        message, scope = call.message, call.scope
        _check(message)
        self._policy.check_allowed(message.allow)
        print_ = fingerprint(message, scope.tenant, scope.user, lineage.parent if lineage else "")
        process = self._table.get(message.pid)
        pending = self._pending.get(message.pid)
        known = process.record if process else self._table.expired(message.pid)
        if (known and known.fingerprint != print_) or (pending and pending.fingerprint != print_):
            raise Conflict(f"process id {message.pid} is taken by another launch: choose a new random one")
        if pending is not None:
            pending.calls.append(call)
        elif process is not None:
            self._accepted(call, process, again=True)
        elif known is not None:
            raise Gone(f"process {message.pid} ended and its events are no longer kept: launch with a new id")
        else:
            self._begin(call, print_, lineage)

    def cancel(self, pid: str, scope: Scope, error: PieError) -> bool:
        """Give up a launch that has not been placed. False if there is none."""
        pending = self._pending.get(pid)
        if pending is None or pending.process is not None or pending.scope != scope:
            return False
        self._fail(pending, error)
        return True

    def give_up(self, pid: str, error: PieError) -> None:
        """Fail a launch that has not been placed, if there is one."""
        pending = self._pending.get(pid)
        if pending is not None and pending.process is None:
            self._fail(pending, error)

    def forget(self, session: Session) -> None:
        """The session has gone: launches that only it waits for and that have not been placed are dropped."""
        for pending in list(self._pending.values()):
            pending.calls = [c for c in pending.calls if c.session is not session]
            if not pending.calls and pending.process is None:
                self._fail(pending, PeerLost("the client has gone"))

    def place(self) -> None:
        """Start queued launches as far as runners have room."""
        while len(self._queue) and not self._runners.is_full:
            placed = self._queue.take(self._runners.pick)
            if placed is None:
                return
            self._start(*placed)

    def tick(self) -> None:
        now = self._hub.clock()
        self.place()
        for pending in self._queue.overdue(lambda pending: now >= pending.deadline):
            self._fail(pending, self._no_runner(pending.scope.tenant))

    # -- stages

    def _begin(self, call: Call[Launch], print_: bytes, lineage: Lineage | None) -> None:
        self._check_tenant(call.scope.tenant)
        self._room.enter(call.scope.tenant, call.message)
        pid = call.message.pid
        deadline = self._hub.clock() + self._config.queue_timeout
        pending = self._pending[pid] = _Pending(call.message, call.scope, print_, [call], deadline, lineage=lineage)

        def resolved(program: Resolved) -> None:
            if self._pending.get(pid) is not pending:
                return
            pending.program = program
            near = pending.launch.near
            if near:
                self._store.ask(LocateSnapshot(near), located, lambda error: missing(near, error), scope=pending.scope)
            else:
                ready()

        def located(place: SnapshotPlace) -> None:
            pending.home = place.engine
            ready()

        def missing(near: str, error: PieError) -> None:
            failed(NotFound(f"no snapshot {near!r} to be near to") if isinstance(error, NotFound) else error)

        def ready() -> None:
            if self._pending.get(pid) is pending:
                pending.deadline = self._hub.clock() + self._config.queue_timeout
                self._queue.add(pending.scope.tenant, pending)
                self.place()

        def failed(error: PieError) -> None:
            if self._pending.get(pid) is pending:
                self._fail(pending, error)

        try:
            self._programs.resolve(call.message, call.scope, resolved, failed)
        except PieError:
            self._drop(pending)
            raise

    def _check_tenant(self, tenant: str) -> None:
        """Raise LimitExceeded when the tenant may have no other process."""
        most = self._tenants.of(tenant).processes
        if not most:
            return
        waiting = sum(1 for p in self._pending.values() if p.process is None and p.scope.tenant == tenant)
        there = self._table.live_of(tenant) + waiting
        if there >= most:
            raise LimitExceeded(
                f"tenant {tenant} has {there} processes and passes its limit tenant_processes = {most}: wait for some "
                f"to end; the operator can raise it (`tenant_processes` of the gateway, or `processes` of [{tenant}] "
                "in the file `tenants`)"
            )

    def _no_runner(self, tenant: str) -> PieError:
        """Why a launch has waited in vain."""
        waited = f"for {self._config.queue_timeout:g} s"
        if self._runners.serves(tenant):
            return Overloaded(
                f"every runner that tenant {tenant} may use has been full {waited}: try again, or add runners"
            )
        start = f"start one for it, with `--dedicated-to {tenant}`"
        if self._tenants.of(tenant).own_runner:
            return Unavailable(
                f"tenant {tenant} runs only on runners of its own (`own_runner` of [{tenant}] in the file `tenants`), "
                f"and none has been there {waited}: {start}"
            )
        if len(self._runners):
            return Unavailable(
                f"every runner that has been there {waited} is dedicated to other tenants: {start}, or one for all"
            )
        return Unavailable(f"no runner has been there {waited}: is one running? see `pie status`")

    def _start(self, pending: _Pending, runner: Runner) -> None:
        launch, program = pending.launch, pending.program
        if program is None:
            raise BadRequest("a launch without a resolved program cannot be placed")
        ref = program.ref
        line = pending.lineage
        allow = line.allow if line else launch.allow
        granted = self._policy.granted(ref, pending.scope) | allow
        capabilities = (
            line.capabilities.of_child(program.asks, granted) if line else Capabilities(program.asks, granted)
        )
        process = self._table.add(
            ProcessRecord(
                pid=launch.pid,
                program=f"{ref.name}@{ref.version}" if ref.version else ref.name,
                fingerprint=pending.fingerprint,
                tenant=pending.scope.tenant,
                user=pending.scope.user,
                on_disconnect=launch.on_disconnect,
                created_at=self._wall(),
                runner=runner.name,
                incarnation=runner.peer.identity.incarnation,
                parent=line.parent if line else "",
                root=line.root if line else "",
                depth=line.depth if line else 0,
                detached=line.detached if line else False,
                capabilities=capabilities,
                allow=allow,
            )
        )
        pending.process = process
        process.owner = pending.calls[-1].session
        process.owner.owned.add(launch.pid)
        self._runners.assign(process, runner)
        try:
            self._hub.request(
                runner.peer,
                Start(
                    launch.pid,
                    ref,
                    launch.input,
                    filename=launch.filename,
                    on_full=launch.on_full,
                    capabilities=capabilities,
                    near=pending.home,
                    mcp=launch.mcp,
                ),
                lambda answer: self._on_started(pending, process, runner, answer),
                timeout=self._config.start_timeout,
                scope=pending.scope,
            )
        except PieError as exc:  # nothing was sent: too many requests are under way
            self._withdraw(process, runner)
            self._fail(pending, exc)

    def _on_started(self, pending: _Pending, process: Process, runner: Runner, answer: Answer[Done]) -> None:
        if self._pending.get(process.pid) is not pending:
            return  # ended in the meantime, and answered
        error = answer.error
        if error is None:
            log.info(
                "started",
                pid=process.pid,
                program=process.record.program,
                runner=runner.name,
                trace=pending.scope.trace,
            )
            self._settle(pending, process)
        elif isinstance(error, PeerLost | DeadlineExceeded):
            self._runners.kill(runner.peer, process.pid, "its start was not confirmed in time")
            self._streams.end(process, ProcessLost(f"runner {runner.name} did not confirm the start: {error.message}"))
        elif isinstance(error, BadRequest | NotFound | Unsupported | Unavailable):
            self._withdraw(process, runner)
            if process.kill_reason:
                self._fail(pending, Terminated(process.kill_reason))
            elif not pending.calls:
                self._fail(pending, PeerLost("the client has gone"))
            elif isinstance(error, Overloaded):
                self._runners.refused(runner)
                pending.process = None
                self._queue.put_back(pending.scope.tenant, pending)
                self.place()
            else:
                self._fail(pending, error)
        else:
            self._runners.kill(runner.peer, process.pid, "its start failed")
            self._streams.end(process, error)

    def _withdraw(self, process: Process, runner: Runner) -> None:
        """The runner refused: nothing ran, so the id is free again and there is nothing left to end."""
        runner.processes.pop(process.pid, None)
        if process.owner is not None:
            process.owner.owned.discard(process.pid)
        self._table.forget(process)
        for answer in process.on_end:
            answer()

    def _settle(self, pending: _Pending, process: Process) -> None:
        self._drop(pending)
        for number, call in enumerate(pending.calls):
            self._accepted(call, process, again=number > 0)

    def _accepted(self, call: Call[Launch], process: Process, *, again: bool) -> None:
        call.reply(Launched(process.pid, process.record.program, again))
        if call.message.attach and call.session.alive:
            self._streams.attach(process, call.session, 1)
            self._streams.resume(process)

    def _drop(self, pending: _Pending) -> None:
        """It waits for nothing any more."""
        if self._pending.get(pending.launch.pid) is pending:
            del self._pending[pending.launch.pid]
            self._room.leave(pending.scope.tenant, pending.launch)

    def _ended(self, process: Process) -> None:
        pending = self._pending.get(process.pid)
        if pending is not None:
            self._settle(pending, process)

    def _fail(self, pending: _Pending, error: PieError) -> None:
        self._drop(pending)
        self._queue.discard(pending.scope.tenant, pending)
        for call in pending.calls:
            call.fail(error)


def _check(launch: Launch) -> None:
    if not PID.fullmatch(launch.pid):
        raise BadField(f"pid is {launch.pid!r}, expected 32 lower-case hex digits")
    checked(launch.allow)
    if "*" in checked(Grants(mcp=launch.mcp)).mcp:
        raise BadField("`*` is no name of a tool server")
    size = len(launch.input.encode())
    if size > MAX_INPUT_BYTES:
        raise TooLarge(f"an input of {size} bytes exceeds {MAX_INPUT_BYTES}: send large data as messages")
    try:
        msgspec.json.decode(launch.input, type=Any)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise BadField(f"input is not JSON: {exc}") from exc
    if launch.near and not (len(launch.near) <= MAX_NAME and launch.near.isprintable()):
        raise BadField(f"near is {launch.near[:40]!r}, expected the name of a snapshot")
    name = launch.filename
    if not 0 < len(name) <= MAX_FILENAME or "/" in name or not name.isprintable():
        raise BadField(f"filename is {name!r}, expected a plain file name of up to {MAX_FILENAME} characters")
