"""The asyncio client."""

from __future__ import annotations

import asyncio
import builtins
import json
import secrets
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pie_wire.capabilities import Grants
from pie_wire.errors import BadField, BadRequest, Conflict, PeerLost, PieError, Unavailable
from pie_wire.hub import Incoming
from pie_wire.messages.client import CallTool, ProcessEvents, Replaced
from pie_wire.messages.common import CHUNK_BYTES, ProcessInfo, Program, ProgramKind
from pie_wire.messages.gateway import (
    Attach,
    DeadMessages,
    Detach,
    EngineAdapters,
    Install,
    Launch,
    ListInstalled,
    ListModelAdapters,
    ListProcesses,
    LoadModelAdapter,
    Pages,
    PagesReport,
    Purge,
    Status,
    StatusReport,
    ToolAnswered,
    Topics,
    UnloadModelAdapter,
    Upload,
)
from pie_wire.messages.kvstore import DeadMessage, TopicInfo

from pie_zmq import artifact
from pie_zmq.artifact import Artifact
from pie_zmq.connection import Connection
from pie_zmq.process import AsyncProcess
from pie_zmq.tool_servers import Handler, ToolServers
from pie_zmq.transport import Transport, ZmqTransport, default_endpoint

RETRY_PAUSE = 0.2
ADAPTER_SECONDS = 310.0
"""A large adapter may take long to read."""

Progress = Callable[[int, int], None]
"""Called with the bytes uploaded so far and the size."""


class AsyncClient:
    """A client of one gateway. Survives its restarts: open processes are attached again where they were.

    `timeout` bounds every request. `reconnect_timeout` is how long the gateway may be away before open processes
    fail with `Unavailable`.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout: float = 60.0,
        reconnect_timeout: float = 30.0,
        transport: Transport | None = None,
    ) -> None:
        self._timeout = timeout
        self._reconnect_timeout = reconnect_timeout
        self._connection = Connection(transport or ZmqTransport(endpoint or default_endpoint()))
        self._processes: weakref.WeakValueDictionary[str, AsyncProcess] = weakref.WeakValueDictionary()
        self._attaching: set[asyncio.Task[None]] = set()
        self._giving_up: asyncio.TimerHandle | None = None
        self._connection.on_up(self._up)
        self._connection.on_down(self._down)
        self._connection.hub.on(ProcessEvents, self._events)
        self._connection.hub.on(Replaced, self._replaced)
        self._connection.hub.on(CallTool, self._call_tool)
        self._tools = ToolServers()
        self._calls: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(
        cls,
        endpoint: str | None = None,
        *,
        timeout: float = 60.0,  # noqa: ASYNC109 - part of the public face
        connect_timeout: float = 10.0,
        reconnect_timeout: float = 30.0,
        transport: Transport | None = None,
    ) -> Self:
        """A connected client.

        Raises:
            Unavailable: no gateway answers within `connect_timeout`. VersionMismatch.
        """
        client = cls(endpoint, timeout=timeout, reconnect_timeout=reconnect_timeout, transport=transport)
        await client.open(connect_timeout)
        return client

    async def open(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - part of the public face
        """Connect; `async with` does it too. Raises as `connect`."""
        try:
            await self._connection.open(timeout)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Say goodbye. Processes launched with `on_disconnect="terminate"` end, the others go on."""
        if self._giving_up is not None:
            self._giving_up.cancel()
        for task in self._attaching | self._calls:
            task.cancel()
        self._tools.close()
        self._connection.close()
        self._fail_all(PeerLost("the client has been closed"))

    async def __aenter__(self) -> Self:
        if not self._connection.is_up:
            await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- programs

    async def upload(self, source: Path | str | bytes, *, progress: Progress | None = None) -> str:
        """Send a program; returns its SHA-256. Bytes that are there already are not sent again.

        Raises:
            PieError
        """
        return await self._upload(await _read(source), progress)

    async def install(
        self,
        source: Path | str | bytes,
        manifest: str | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> Program:
        """Upload a program and register it under the name and version of its manifest: the text given, or Pie.toml
        beside the file or in the folder.

        Raises:
            BadField: the manifest. Conflict: this version exists with other bytes, and not `replace`. PieError.
        """
        program = await _read(source)
        text = program.manifest if manifest is None else manifest
        if not text:
            raise BadField("a program needs a manifest to be installed: put Pie.toml beside it, or pass its text")
        digest = await self._upload(program, progress)
        request = Install(digest, program.kind, text, replace)
        return (await self._connection.ask(request, timeout=self._timeout)).program

    async def programs(self) -> builtins.list[Program]:
        """All installed programs. Raises PieError."""
        return (await self._connection.ask(ListInstalled(), timeout=self._timeout)).programs

    # -- processes

    async def launch(
        self,
        program: str,
        input: Any = None,  # noqa: A002 - the word of the protocol
        *,
        attach: bool = True,
        on_disconnect: Literal["continue", "terminate"] = "continue",
        on_full: Literal["block", "drop"] = "block",
        kind: ProgramKind = "python",
        filename: str = "inferlet.py",
        pid: str | None = None,
        manifest: str = "",
        allow: Grants | None = None,
        near: str = "",
    ) -> AsyncProcess:
        """Start NAME, NAME@VERSION or sha256:DIGEST with any JSON value as input (`{}` if None).

        A link that goes in the meantime is no harm: the launch is repeated under the same id, which is executed at
        most once. `kind`, `filename` and `manifest` (TOML; its `[capabilities]` are what the program asks for)
        matter to uploads only. `allow` grants capabilities, where the operator lets users do so. `near` names
        a snapshot: the program then works on the engine that has its KV.

        Raises:
            NotFound: no such program, or snapshot. BadField, TooLarge: the input. Forbidden: users may not grant here.
            Overloaded, Unavailable: try again. PieError.
        """
        pid = pid or secrets.token_hex(16)
        process = AsyncProcess(self._connection, pid, program)
        request = Launch(
            pid,
            program,
            _encode(input),
            kind,
            filename,
            attach,
            on_disconnect,
            on_full,
            manifest,
            allow or Grants(),
            self._tools.names,
            near,
        )
        self._processes[pid] = process
        try:
            deadline = time.monotonic() + self._timeout
            while True:
                session = self._connection.session
                try:
                    left = max(0.001, deadline - time.monotonic())
                    launched = await self._connection.ask(request, timeout=left)
                    break
                except PeerLost:
                    if time.monotonic() >= deadline:
                        raise
        except BaseException:
            self._processes.pop(pid, None)
            raise
        process.program = launched.program
        if attach:
            self._follow(process, session)
        return process

    async def run_file(self, path: Path | str, input: Any = None, **options: Any) -> AsyncProcess:  # noqa: A002
        """Upload a file or folder and launch it, without installing. `options` are those of `launch`."""
        program = await _read(path)
        digest = await self._upload(program, None)
        options = {"kind": program.kind, "filename": program.filename, "manifest": program.manifest} | options
        return await self.launch(f"sha256:{digest}", input, **options)

    async def attach(self, pid: str, start: int = 1) -> AsyncProcess:
        """Take over the events of a process from number `start` on; whoever had them before loses them.

        Raises:
            NotFound. Gone: it ended too long ago. BadField: there is no event `start` yet.
        """
        process = AsyncProcess(self._connection, pid, "", start)
        previous = self._processes.pop(pid, None)
        if previous is not None:
            previous.fail(Conflict(f"process {pid} has been attached to again"))
        self._processes[pid] = process
        session = self._connection.session
        try:
            attached = await self._connection.ask(Attach(pid, start), timeout=self._timeout)
        except BaseException:
            self._processes.pop(pid, None)
            raise
        process.program = attached.process.program
        self._follow(process, session)
        return process

    async def signal(self, pid: str, message: str | bytes) -> None:
        """Send a message to the `session.receive` of any process. Raises PieError."""
        await AsyncProcess(self._connection, pid, "").signal(message)

    async def terminate(self, pid: str, reason: str = "terminated by its owner") -> None:
        """End any process; returns when it has ended. One that has ended already is no error. Raises PieError."""
        await AsyncProcess(self._connection, pid, "").terminate(reason)

    async def list(self, *, ended: bool = False) -> builtins.list[ProcessInfo]:
        """Running processes; with `ended` also those whose events are still kept. Raises PieError."""
        return (await self._connection.ask(ListProcesses(ended), timeout=self._timeout)).processes

    # -- tools

    def register_mcp(
        self,
        name: str,
        command: Sequence[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        handler: Handler | None = None,
    ) -> None:
        """Let programs that this client launches from now on call a tool server, which runs here: `command` speaks the
        Model Context Protocol on its standard streams (needs the package `mcp`), or `handler(method, params)` answers.

        Raises:
            BadField: the name, or neither or both.
        """
        self._tools.register(name, command, env, handler)

    # -- operators

    async def status(self) -> StatusReport:
        """Services, models and the HTTP address. Raises PieError."""
        return await self._connection.ask(Status(), timeout=self._timeout)

    async def pages(self) -> PagesReport:
        """Who holds which KV pages, per engine. Raises PieError."""
        return await self._connection.ask(Pages(), timeout=self._timeout)

    async def adapters(self, model: str = "") -> builtins.list[EngineAdapters]:
        """LoRA adapters of every engine, or of those of one model. Raises PieError."""
        return (await self._connection.ask(ListModelAdapters(model), timeout=self._timeout)).engines

    async def load_adapter(self, name: str, folder: str, model: str = "") -> builtins.list[EngineAdapters]:
        """Load an adapter in PEFT's format on every engine (of one model); the folder is on their machines. A row for
        each engine, some of them perhaps with an error. Raises PieError when none did it."""
        request = LoadModelAdapter(name, folder, model)
        return (await self._connection.ask(request, timeout=max(self._timeout, ADAPTER_SECONDS))).engines

    async def unload_adapter(self, adapter: str, model: str = "") -> builtins.list[EngineAdapters]:
        """Take `name` or `name@digest` away on every engine (of one model). As `load_adapter`."""
        request = UnloadModelAdapter(adapter, model)
        return (await self._connection.ask(request, timeout=self._timeout)).engines

    async def topics(self) -> builtins.list[TopicInfo]:
        """This user's topics that hold messages. Raises PieError."""
        return (await self._connection.ask(Topics(), timeout=self._timeout)).topics

    async def dead_messages(self, topic: str) -> builtins.list[DeadMessage]:
        """Messages that were taken five times and never acknowledged, oldest first. Raises PieError."""
        return (await self._connection.ask(DeadMessages(topic), timeout=self._timeout)).messages

    async def purge(self, topic: str, *, waiting: bool = False) -> int:
        """Delete the dead messages of a topic, with `waiting` those that nobody has as well; returns how many. Raises
        PieError."""
        return (await self._connection.ask(Purge(topic, waiting), timeout=self._timeout)).messages

    # -- inside

    async def _upload(self, program: Artifact, progress: Progress | None) -> str:
        digest, size = program.sha256, len(program.data)
        deadline = time.monotonic() + self._reconnect_timeout
        while True:
            try:
                state = await self._connection.ask(Upload(digest, size, 0), timeout=self._timeout, buffers=[b""])
                while not state.complete:
                    chunk = memoryview(program.data)[state.received : state.received + CHUNK_BYTES]
                    if not chunk:
                        raise BadRequest(f"the gateway says that it has {state.received} of {size} bytes of {digest}")
                    request = Upload(digest, size, state.received)
                    state = await self._connection.ask(request, timeout=self._timeout, buffers=[chunk])
                    deadline = time.monotonic() + self._reconnect_timeout
                    if progress is not None:
                        progress(state.received, size)
                return digest
            except PieError as exc:
                if not exc.retryable or time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE)

    def _events(self, incoming: Incoming[ProcessEvents]) -> None:
        message, at = incoming.message, 0
        if len(message.pids) != len(message.counts) or sum(message.counts) != len(message.events):
            raise BadField("client.events: counts do not add up to the events")
        for pid, count in zip(message.pids, message.counts, strict=True):
            events = message.events[at : at + count]
            at += count
            process = self._processes.get(pid)
            if process is None:
                request = Detach(pid)  # nobody holds it any more
                self._connection.hub.request(incoming.peer, request, lambda _: None, timeout=self._timeout)
            elif not process.receive(events):
                self._reattach(process)

    def _replaced(self, incoming: Incoming[Replaced]) -> None:
        process = self._processes.get(incoming.message.pid)
        if process is not None:
            process.fail(Conflict(f"another client has attached to process {process.pid}"))

    def _call_tool(self, incoming: Incoming[CallTool]) -> None:
        async def answer() -> None:
            message = incoming.message
            try:
                incoming.reply(ToolAnswered(await self._tools.ask(message.server, message.method, message.params)))
            except PieError as exc:
                incoming.fail(exc)
            self._connection.soon()

        task = asyncio.get_running_loop().create_task(answer())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _up(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        for process in list(self._processes.values()):
            if process.is_attached:
                self._reattach(process)

    def _down(self, cause: PieError) -> None:
        if self._giving_up is None:
            error = Unavailable(
                f"the gateway has been away for {self._reconnect_timeout:g} s ({cause.message}): "
                "the process may go on, attach to it later",
                cause=cause.code,
            )
            loop = asyncio.get_running_loop()
            self._giving_up = loop.call_later(self._reconnect_timeout, self._fail_all, error)

    def _fail_all(self, error: PieError) -> None:
        for process in list(self._processes.values()):
            process.fail(error)

    def _follow(self, process: AsyncProcess, session: int) -> None:
        """Events flow since a reply on this session, if it is still the current one."""
        process.is_attached = process.outcome is None
        if process.is_attached and self._connection.session != session:
            self._reattach(process)

    def _reattach(self, process: AsyncProcess) -> None:
        task = asyncio.get_running_loop().create_task(self._attach_again(process))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    async def _attach_again(self, process: AsyncProcess) -> None:
        while process.is_attached:
            try:
                await self._connection.ask(Attach(process.pid, process.next_seq), timeout=self._reconnect_timeout)
                process.acknowledge()
                return
            except PeerLost:
                return  # the next link attaches again
            except PieError as exc:
                if not exc.retryable:
                    process.fail(exc)
                    return
                await asyncio.sleep(RETRY_PAUSE)


def _encode(value: Any) -> str:
    if value is None:
        return "{}"
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise BadField(f"input cannot be written as JSON: {exc}") from exc


async def _read(source: Path | str | bytes) -> Artifact:
    if isinstance(source, bytes):
        return artifact.of_bytes(source)
    return await asyncio.to_thread(artifact.of_path, Path(source))
