"""The gateway of tests, and everything behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import tomllib
from collections.abc import Mapping
from typing import Any

from pie_wire.errors import (
    BadField,
    Conflict,
    Gone,
    HashMismatch,
    NotFound,
    PieError,
    ProgramError,
    Terminated,
    to_error,
)
from pie_wire.file_names import file_name
from pie_wire.hub import Hub, Incoming, Peer
from pie_wire.messages.base import Done
from pie_wire.messages.client import ProcessEvents, Replaced
from pie_wire.messages.common import Event, EventKind, ModelFacts, Program, ProgramRef
from pie_wire.messages.engine import AdapterInfo
from pie_wire.messages.gateway import (
    AckEvents,
    AdapterReport,
    Attach,
    Attached,
    DeadMessages,
    Detach,
    EngineAdapters,
    Install,
    Installed,
    Launch,
    Launched,
    ListInstalled,
    ListModelAdapters,
    ListProcesses,
    LoadModelAdapter,
    Pages,
    PagesReport,
    Processes,
    Programs,
    Purge,
    SendFile,
    Signal,
    Status,
    StatusReport,
    Terminate,
    Topics,
    UnloadModelAdapter,
    Upload,
    UploadState,
)
from pie_wire.messages.kvstore import DeadList, Purged, TopicList
from pie_wire.messages.link import Identity

from pie_zmq.testing.fake_carrier import FakeCarrier
from pie_zmq.testing.fake_process import FakeProcess
from pie_zmq.testing.fake_run import FakeProgram, FakeRun
from pie_zmq.transport import GATEWAY, Carrier


class FakePie:
    """A gateway with everything behind it. Use one per event loop."""

    def __init__(self, programs: Mapping[str, FakeProgram] | None = None, *, model: str = "fake") -> None:
        """`programs` by name, as launched: "name" stands for every version of it."""
        self._programs = dict(programs or {})
        self._installed: list[Program] = []
        self._adapter_names: list[str] = []
        self._uploads: dict[str, bytearray] = {}
        self._processes: dict[str, FakeProcess] = {}
        self._carriers: list[FakeCarrier] = []
        self._model = ModelFacts(model, 32_000, 4096)
        self._incarnation = 0
        self.hub = self._new_hub()

    def open(self, hub: Hub) -> Carrier:
        """The seam: connect a client's hub to this gateway."""
        carrier = FakeCarrier(self, hub, f"c{len(self._carriers)}".encode())
        self._carriers.append(carrier)
        hub.dial(GATEWAY)
        carrier.soon()
        return carrier

    def restart(self) -> None:
        """The gateway dies and is there again at once, with its event logs; clients lose their links."""
        self.hub = self._new_hub()
        for process in self._processes.values():
            process.reader = process.owner = None
        for carrier in self._carriers:
            carrier.lost()

    def dispatch(self) -> None:
        """Hand what the gateway has to say to its clients."""
        for item in self.hub.outgoing():
            for carrier in self._carriers:
                carrier.deliver(item)

    # -- programs

    def _launch(self, incoming: Incoming[Launch]) -> None:
        launch = incoming.message
        process = self._processes.get(launch.pid)
        again = process is not None
        if process is None:
            program = self._program(launch.program)
            try:
                given = json.loads(launch.input)
            except ValueError as exc:
                raise BadField(f"input is not JSON: {exc}") from exc
            process = self._processes[launch.pid] = FakeProcess(launch, time.time())
            run = process.run = FakeRun(lambda kind, text, data: self._emit(process, kind, text, data))
            process.task = asyncio.get_running_loop().create_task(self._execute(process, program, run, given))
        elif (process.launch.program, process.launch.input) != (launch.program, launch.input):
            raise Conflict(f"process id {launch.pid} is taken by another launch")
        process.owner = incoming.peer
        incoming.reply(Launched(launch.pid, launch.program, again))
        if launch.attach:
            self._show_from(process, incoming.peer, 1)

    def _program(self, name: str) -> FakeProgram:
        program = self._programs.get(name) or self._programs.get(name.partition("@")[0])
        if program is None:
            raise NotFound(f"no program {name}; this FakePie has {', '.join(sorted(self._programs)) or 'none'}")
        return program

    async def _execute(self, process: FakeProcess, program: FakeProgram, run: FakeRun, given: Any) -> None:
        self._emit(process, "started")
        try:
            value = await program(run, given)
        except asyncio.CancelledError:
            self._fail(process, Terminated(process.reason or "terminated"))
        except PieError as exc:
            self._fail(process, exc)
        except Exception as exc:  # noqa: BLE001 - what any exception of a program becomes is the point here
            self._fail(process, ProgramError(f"{type(exc).__name__}: {exc}", cause=to_error(exc).code))
        else:
            self._emit(process, "return", json.dumps(value))

    def _fail(self, process: FakeProcess, error: PieError) -> None:
        self._append(process, Event(len(process.events) + 1, "error", error=error.info()))

    def _emit(self, process: FakeProcess, kind: EventKind, text: str = "", data: bytes = b"") -> None:
        self._append(process, Event(len(process.events) + 1, kind, text, data))

    def _append(self, process: FakeProcess, event: Event) -> None:
        if process.ended:
            return
        process.events.append(event)
        if process.reader is not None:
            self.hub.send(process.reader, ProcessEvents([process.launch.pid], [1], [event]))
        for carrier in self._carriers:
            carrier.soon()

    # -- processes

    def _find(self, pid: str) -> FakeProcess:
        process = self._processes.get(pid)
        if process is None:
            raise NotFound(f"no process {pid}")
        return process

    def _attach(self, incoming: Incoming[Attach]) -> None:
        process = self._find(incoming.message.pid)
        if not 1 <= incoming.message.start <= len(process.events) + 1:
            raise BadField(f"process {incoming.message.pid} has events 1 to {len(process.events)}")
        if process.reader is not None and process.reader is not incoming.peer:
            self.hub.send(process.reader, Replaced(incoming.message.pid))
        process.owner = incoming.peer
        incoming.reply(Attached(process.info()))
        self._show_from(process, incoming.peer, incoming.message.start)

    def _show_from(self, process: FakeProcess, reader: Peer, start: int) -> None:
        process.reader = reader
        events = process.events[start - 1 :]
        if events:
            self.hub.send(reader, ProcessEvents([process.launch.pid], [len(events)], events))

    def _detach(self, incoming: Incoming[Detach]) -> Done:
        process = self._find(incoming.message.pid)
        if process.reader is incoming.peer:
            process.reader = None
        return Done()

    def _ack(self, incoming: Incoming[AckEvents]) -> None:
        for pid, seq in zip(incoming.message.pids, incoming.message.seqs, strict=True):
            process = self._processes.get(pid)
            if process is not None:
                process.acked = max(process.acked, seq)

    def _signal(self, incoming: Incoming[Signal]) -> Done:
        process = self._find(incoming.message.pid)
        if process.ended or process.run is None:
            raise Gone(f"process {incoming.message.pid} has ended")
        process.run.deliver(bytes(incoming.buffers[0]) if incoming.message.binary else incoming.message.text)
        return Done()

    def _send_file(self, incoming: Incoming[SendFile]) -> Done:
        message = incoming.message
        process = self._find(message.pid)
        file_name(message.name)
        if process.ended or process.run is None:
            raise Gone(f"process {message.pid} has ended")
        process.run.deliver_part(message.file, message.name, message.size, message.offset, bytes(incoming.buffers[0]))
        return Done()

    def _terminate(self, incoming: Incoming[Terminate]) -> None:
        process = self._find(incoming.message.pid)
        if process.task is None or process.ended:
            incoming.reply(Done())
            return
        self._cancel(process, incoming.message.reason)

        def ended(task: asyncio.Task[None]) -> None:
            if not process.ended:  # cancelled before its first step
                self._fail(process, Terminated(process.reason))
            incoming.reply(Done())

        process.task.add_done_callback(ended)

    def _cancel(self, process: FakeProcess, reason: str) -> None:
        process.reason = reason
        if process.task is not None:
            process.task.cancel()

    def _list(self, incoming: Incoming[ListProcesses]) -> Processes:
        return Processes([p.info() for p in self._processes.values() if incoming.message.ended or not p.ended])

    # -- uploads

    def _upload(self, incoming: Incoming[Upload]) -> UploadState:
        message = incoming.message
        data = self._uploads.setdefault(message.sha256, bytearray())
        if incoming.buffers and message.offset == len(data):
            data += incoming.buffers[0]
        if len(data) < message.size:
            return UploadState(len(data), complete=False)
        if hashlib.sha256(data).hexdigest() != message.sha256:
            del self._uploads[message.sha256]
            raise HashMismatch(f"the bytes received are not those of {message.sha256}")
        return UploadState(len(data), complete=True)

    def _install(self, incoming: Incoming[Install]) -> Installed:
        """Registers the name; what runs under it is the fake program of that name."""
        message = incoming.message
        try:
            package = tomllib.loads(message.manifest)["package"]
            ref = ProgramRef(package["name"], package["version"], message.kind, message.sha256)
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as exc:
            raise BadField(f"Pie.toml needs a [package] table with name and version: {exc}") from exc
        self._installed.append(Program(ref, message.manifest, len(self._uploads.get(message.sha256, b""))))
        return Installed(self._installed[-1])

    def _load_adapter(self, incoming: Incoming[LoadModelAdapter]) -> AdapterReport:
        self._adapter_names.append(incoming.message.name)
        return self._adapters()

    def _unload_adapter(self, incoming: Incoming[UnloadModelAdapter]) -> AdapterReport:
        name = incoming.message.adapter
        if name not in self._adapter_names:
            raise NotFound(f"no adapter is called {name}")
        self._adapter_names.remove(name)
        return AdapterReport([EngineAdapters("fake", self._model.name, [AdapterInfo(name, "0" * 32)])])

    def _adapters(self) -> AdapterReport:
        """One engine, where any folder is an adapter."""
        found = [AdapterInfo(name, "0" * 32, rank=8, size=1_000_000) for name in self._adapter_names]
        return AdapterReport([EngineAdapters("fake", self._model.name, found)])

    # -- links

    def _new_hub(self) -> Hub:
        self._incarnation += 1
        hub = Hub(Identity("gateway", "fake", 0, f"fake-{self._incarnation}"), time.monotonic)
        hub.listen("clients")
        hub.on(Launch, self._launch)
        hub.on(Attach, self._attach)
        hub.on(Detach, self._detach)
        hub.on(AckEvents, self._ack)
        hub.on(Signal, self._signal)
        hub.on(SendFile, self._send_file)
        hub.on(Terminate, self._terminate)
        hub.on(ListProcesses, self._list)
        hub.on(Upload, self._upload)
        hub.on(Install, self._install)
        hub.on(ListInstalled, lambda _: Programs(self._installed))
        hub.on(Status, lambda _: StatusReport([], [self._model], "", len(self._processes)))
        hub.on(Pages, lambda _: PagesReport([]))
        hub.on(ListModelAdapters, lambda _: self._adapters())
        hub.on(LoadModelAdapter, self._load_adapter)
        hub.on(UnloadModelAdapter, self._unload_adapter)
        hub.on(Topics, lambda _: TopicList([]))
        hub.on(DeadMessages, lambda _: DeadList([]))
        hub.on(Purge, lambda _: Purged(0))
        hub.on_down(self._down)
        return hub

    def _down(self, peer: Peer, cause: PieError) -> None:
        for process in self._processes.values():
            if process.reader is peer:
                process.reader = None
            if process.owner is peer:
                process.owner = None
                if process.launch.on_disconnect == "terminate":
                    self._cancel(process, "its client has gone")
