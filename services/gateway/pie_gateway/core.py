"""The gateway without I/O: messages and ticks in, messages out through a Hub.

clients --- Call ---> launcher, control, programs, uploads, reports
runners --- Announce, Events, RunnerLoad ---> recovery, streams, runners
runners --- LaunchChild, EndChild, DetachChild ---> children
runners --- AskTool ---> tools ---> clients
kvstore <-- names, artifacts, process index --- programs, uploads, process_index
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pie_wire.codec import Buffer
from pie_wire.errors import BadField, PieError, UnknownVerb
from pie_wire.hub import Answer, Hub, Incoming, Peer, Scope
from pie_wire.membership import Membership
from pie_wire.messages.base import Message, Push, Request
from pie_wire.messages.common import Event, MemberInfo
from pie_wire.messages.gateway import (
    AckEvents,
    Announce,
    AskTool,
    Attach,
    DeadMessages,
    Detach,
    DetachChild,
    EndChild,
    Events,
    Install,
    Launch,
    LaunchChild,
    ListInstalled,
    ListModelAdapters,
    ListProcesses,
    LoadModelAdapter,
    Pages,
    Purge,
    Recovered,
    RunnerLoad,
    SendFile,
    Signal,
    Status,
    Terminate,
    Topics,
    UnloadModelAdapter,
    Upload,
)
from pie_wire.tenants import TenantLimits, TenantTable

from pie_gateway.adapters import PORT_PREFIX, Adapters, Dialer
from pie_gateway.children import Children
from pie_gateway.config import GatewayConfig
from pie_gateway.control import ProcessControl
from pie_gateway.launcher import Launcher
from pie_gateway.log import EventLog, LogError
from pie_gateway.policy import Policy
from pie_gateway.process import Process
from pie_gateway.process_index import ProcessIndex
from pie_gateway.programs import ProgramCatalogue
from pie_gateway.recovery import Recovery
from pie_gateway.reports import Reports
from pie_gateway.runners import RunnerPool
from pie_gateway.session import Call, Session
from pie_gateway.store import Store
from pie_gateway.streams import EventStreams
from pie_gateway.table import ProcessTable
from pie_gateway.tools import ToolRelay
from pie_gateway.uploads import UploadRelay

CLIENTS = "clients"
RUNNERS = "runners"

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)


class GatewayCore:
    """Feed the hub and call `tick` every 100 ms or so. `wall` gives Unix seconds."""

    def __init__(
        self,
        config: GatewayConfig,
        hub: Hub,
        event_log: EventLog,
        membership: Membership,
        wall: Callable[[], float],
        policy: Policy | None = None,
        tenants: TenantTable | None = None,
        dialer: Dialer | None = None,
    ) -> None:
        """Without a policy nothing is granted."""
        policy = policy or Policy()
        limits = tenants or TenantTable(TenantLimits(processes=config.tenant_processes))
        self._hub = hub
        self.fatal: LogError | None = None
        """Set when the event log has failed: the gateway must stop, and a successor continues from the log."""
        self._leaving = False
        self.http = ""
        """Address of the HTTP front."""
        self.membership = membership
        self.store = Store(hub)
        self.table = ProcessTable(config, event_log, wall)
        self.streams = EventStreams(config, self.table, event_log, wall)
        self.runners = RunnerPool(hub, limits)
        self.programs = ProgramCatalogue(self.store, hub.clock)
        self.launcher = Launcher(
            config, hub, self.table, self.streams, self.runners, self.programs, self.store, policy, limits, wall
        )
        self.control = ProcessControl(config, hub, self.table, self.streams, self.runners, self.launcher)
        self.recovery = Recovery(config, hub, self.table, self.streams, self.runners, self.control)
        self.children = Children(config, hub, self.table, self.streams, event_log, self.launcher, self.control)
        self.tools = ToolRelay(hub, self.table)
        self.uploads = UploadRelay(config, self.store, hub.clock)
        self.index = ProcessIndex(self.table, self.store, hub.clock)
        self.adapters = Adapters(config, hub, dialer)
        self.reports = Reports(self.table, self.store, membership, lambda: self.http)
        self._sessions: dict[Peer, Session] = {}
        self._requests: dict[type[Message], Callable[[Call[Any]], None]] = {
            Launch: self.launcher.launch,
            Attach: self.control.attach,
            Detach: self.control.detach,
            AckEvents: self.control.ack,
            Signal: self.control.signal,
            SendFile: self.control.send_file,
            Terminate: self.control.terminate,
            ListProcesses: self.control.list_processes,
            Upload: self.uploads.upload,
            Install: self.programs.install,
            ListInstalled: self.programs.list_installed,
            Status: self.reports.status,
            Pages: self.reports.pages,
            ListModelAdapters: self.adapters.list,
            LoadModelAdapter: self.adapters.load,
            UnloadModelAdapter: self.adapters.unload,
            Topics: self.reports.topics,
            DeadMessages: self.reports.dead_messages,
            Purge: self.reports.purge,
        }
        for message in self._requests:
            hub.on(message, self._from_client)
        hub.on(Announce, self._announce)
        hub.on(RunnerLoad, self._load)
        hub.on(Events, self._events)
        hub.on(LaunchChild, self._of_runner(self.children.launch))
        hub.on(DetachChild, self._of_runner(self.children.detach))
        hub.on(EndChild, self._of_runner(self.children.end))
        hub.on(AskTool, self._of_runner(self.tools.ask))
        hub.on_up(self._up)
        hub.on_down(self._down)
        membership.on_change(self._members)
        membership.on_change(self.adapters.members)
        membership.report(self._stats)
        self.streams.on_end(self._ended)

    # -- clients

    def submit(
        self,
        session: Session,
        message: Request[R],
        then: Callable[[Answer[R]], None],
        *,
        scope: Scope | None = None,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """A request from inside this process (the HTTP front): the same path as one from a link."""
        answered = False

        def once(answer: Answer[Any]) -> None:
            nonlocal answered
            if not answered:
                answered = True
                then(answer)

        def fail(error: PieError) -> None:
            once(Answer(None, error))

        call = Call(session, message, scope or Scope(), buffers, lambda m: once(Answer(m, None)), fail)
        try:
            self._handle(call)
        except PieError as exc:
            fail(exc)

    def notify(self, session: Session, message: AckEvents) -> None:
        """An acknowledgement from inside this process."""
        self._handle(Call(session, message, Scope(), (), lambda _: None, lambda _: None))

    def close_session(self, session: Session, cause: PieError) -> None:
        """The client has gone."""
        session.alive = False
        self.launcher.forget(session)
        self.control.forget(session, cause)

    def _from_client(self, incoming: Incoming[Any]) -> None:
        session = self._sessions.get(incoming.peer)
        if session is None:
            raise UnknownVerb(f"{incoming.message.verb} is for clients: dial the clients' endpoint")
        self._handle(Call(session, incoming.message, incoming.scope, incoming.buffers, incoming.reply, incoming.fail))

    def _handle(self, call: Call[Any]) -> None:
        try:
            self._requests[type(call.message)](call)
        except LogError as exc:
            self._fail(exc)

    # -- runners

    def _announce(self, incoming: Incoming[Announce]) -> Recovered | None:
        self._require_runner(incoming.peer)
        if incoming.message.capacity < 0:
            raise BadField("capacity is negative")
        try:
            recovered = self.recovery.announce(incoming.peer, incoming.message)
        except LogError as exc:
            self._fail(exc)
            return None
        incoming.reply(recovered)
        self.launcher.place()
        return None

    def _load(self, incoming: Incoming[RunnerLoad]) -> None:
        runner = self.runners.get(incoming.peer)
        if runner is not None:
            runner.capacity, runner.lag_ms = incoming.message.capacity, incoming.message.lag_ms
            self.launcher.place()

    def _events(self, incoming: Incoming[Events]) -> None:
        self._require_runner(incoming.peer)
        message = incoming.message
        if len(message.pids) != len(message.counts) or sum(message.counts) != len(message.events):
            raise BadField("gw.events: counts do not add up to the events")
        batch: list[tuple[Process, Sequence[Event]]] = []
        at = 0
        for pid, count in zip(message.pids, message.counts, strict=True):
            events = message.events[at : at + count]
            at += count
            process = self.table.get(pid)
            if process is None or process.runner is None or process.runner.peer is not incoming.peer:
                self.runners.disown(incoming.peer, pid, events, "the gateway has not given this process to this runner")
            elif process.record.closed_here:
                self.runners.disown(incoming.peer, pid, events, "the gateway has ended this process")
            else:
                batch.append((process, events))
        try:
            self.streams.take(batch)
        except LogError as exc:
            self._fail(exc)

    def _of_runner(self, handle: Callable[[Incoming[M]], None]) -> Callable[[Incoming[M]], None]:
        """A handler of what runners ask, which may write to the log."""

        def checked(incoming: Incoming[M]) -> None:
            self._require_runner(incoming.peer)
            try:
                handle(incoming)
            except LogError as exc:
                self._fail(exc)

        return checked

    def _require_runner(self, peer: Peer) -> None:
        if peer.port != RUNNERS or peer.kind != "runner":
            raise UnknownVerb("only a runner, on the runners' endpoint, may send this")

    # -- links, members, time

    def _up(self, peer: Peer) -> None:
        if peer.port == CLIENTS:
            ask = functools.partial(self._ask, peer)
            self._sessions[peer] = Session(str(peer), functools.partial(self._push, peer), ask=ask)
        elif not peer.port.startswith(PORT_PREFIX):
            self.recovery.contact()

    def _push(self, peer: Peer, push: Push) -> None:
        self._hub.send(peer, push)  # to a peer that has gone: its session is about to be closed

    def _ask(self, peer: Peer, request: Request[Any], then: Callable[[Answer[Any]], None], timeout: float) -> None:
        self._hub.request(peer, request, then, timeout=timeout)

    def _down(self, peer: Peer, cause: PieError) -> None:
        session = self._sessions.pop(peer, None)
        if self._leaving or self.fatal is not None:
            return
        try:
            if session is not None:
                self.close_session(session, cause)
            elif peer.port == RUNNERS:
                self.recovery.lost(peer, cause)
        except LogError as exc:
            self._fail(exc)

    def _members(self, members: Sequence[MemberInfo]) -> None:
        try:
            self.recovery.members(members)
        except LogError as exc:
            self._fail(exc)

    def _ended(self, process: Process) -> None:
        self.runners.release(process)
        self.index.changed(process)
        self.launcher.place()

    def _stats(self) -> dict[str, str | int | float]:
        return {
            "processes": self.table.live_count,
            "queued": self.launcher.queued,
            "sessions": len(self._sessions),
            "runners": len(self.runners),
        }

    def tick(self) -> None:
        """Everything that time brings."""
        if self.fatal is not None:
            return
        try:
            self.membership.tick()
            self.adapters.tick()
            self.recovery.tick()
            self.control.tick()
            self.children.tick()
            self.launcher.tick()
            moved = self.streams.tick(self._hub.clock())
            self.runners.credit(moved)
            for process in moved:
                self.index.moved(process)
            self.index.tick()
            self.table.tick()
        except LogError as exc:
            self._fail(exc)

    def leave(self) -> None:
        """The gateway is about to close its links. Their ends say nothing about processes, which go on."""
        self._leaving = True

    def _fail(self, exc: LogError) -> None:
        if self.fatal is None:
            self.fatal = exc
