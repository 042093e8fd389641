"""The synchronous client: the asyncio one on a thread of its own."""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pie_wire.capabilities import Grants
from pie_wire.messages.common import Event, ProcessInfo, Program, ProgramKind
from pie_wire.messages.gateway import EngineAdapters, PagesReport, StatusReport
from pie_wire.messages.kvstore import DeadMessage, TopicInfo

from pie_zmq.async_client import AsyncClient, Progress
from pie_zmq.loop_thread import LoopThread
from pie_zmq.process import AsyncProcess
from pie_zmq.tool_servers import Handler
from pie_zmq.transport import Transport

BATCH = 256
"""Events fetched from the loop's thread at once."""


class Process:
    """A launched process; see AsyncProcess, whose methods these are."""

    def __init__(self, loop: LoopThread, inner: AsyncProcess) -> None:
        self._loop = loop
        self._inner = inner
        self._fetched: deque[Event] = deque()

    @property
    def pid(self) -> str:
        return self._inner.pid

    @property
    def program(self) -> str:
        return self._inner.program

    @property
    def outcome(self) -> Event | None:
        """The terminal event, as soon as it has arrived."""
        return self._inner.outcome

    @property
    def last_seq(self) -> int:
        """The number of the last event fetched from the gateway's stream."""
        return self._inner.last_seq

    def events(self) -> Iterator[Event]:
        """Events not taken yet, in order, up to and including the terminal one. Raises PieError."""
        while True:
            if not self._fetched:
                self._fetched.extend(self._loop.run(self._inner.take(BATCH)))
            if not self._fetched:
                return
            yield self._fetched.popleft()

    def result(self, timeout: float | None = None) -> Any:
        """What the program returned. Raises DeadlineExceeded, or the error the process ended with."""
        return self._loop.run(self._inner.result(timeout))

    def signal(self, message: str | bytes) -> None:
        """Send a message to the program's `session.receive`. Raises PieError."""
        self._loop.run(self._inner.signal(message))

    def send_file(self, name: str, data: bytes | str, *, timeout: float = 60.0) -> None:
        """Send a file to the program's `session.receive_file`. Raises as AsyncProcess.send_file."""
        self._loop.run(self._inner.send_file(name, data, timeout=timeout))

    def terminate(self, reason: str = "terminated by its owner") -> None:
        """End the process; returns when it has ended. Raises PieError."""
        self._loop.run(self._inner.terminate(reason))

    def detach(self) -> None:
        """Take no more events; the process goes on. Raises PieError."""
        self._loop.run(self._inner.detach())


class Client:
    """A connected client, usable from any thread. Arguments, methods and errors are those of AsyncClient.

    Raises:
        Unavailable: no gateway answers within `connect_timeout`. VersionMismatch.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        reconnect_timeout: float = 30.0,
        transport: Transport | None = None,
    ) -> None:
        self._loop = LoopThread()
        try:
            self._inner = self._loop.run(
                AsyncClient.connect(
                    endpoint,
                    timeout=timeout,
                    connect_timeout=connect_timeout,
                    reconnect_timeout=reconnect_timeout,
                    transport=transport,
                )
            )
        except BaseException:
            self._loop.stop()
            raise

    def close(self) -> None:
        """Say goodbye and end the thread. A second call does nothing."""
        if self._loop.is_running:
            self._loop.run(_closed(self._inner))
            self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def upload(self, source: Path | str | bytes, *, progress: Progress | None = None) -> str:
        return self._loop.run(self._inner.upload(source, progress=progress))

    def install(
        self,
        source: Path | str | bytes,
        manifest: str | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> Program:
        return self._loop.run(self._inner.install(source, manifest, replace=replace, progress=progress))

    def programs(self) -> builtins.list[Program]:
        return self._loop.run(self._inner.programs())

    def launch(
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
    ) -> Process:
        return self._process(
            self._loop.run(
                self._inner.launch(
                    program,
                    input,
                    attach=attach,
                    on_disconnect=on_disconnect,
                    on_full=on_full,
                    kind=kind,
                    filename=filename,
                    pid=pid,
                    manifest=manifest,
                    allow=allow,
                    near=near,
                )
            )
        )

    def run_file(self, path: Path | str, input: Any = None, **options: Any) -> Process:  # noqa: A002
        return self._process(self._loop.run(self._inner.run_file(path, input, **options)))

    def attach(self, pid: str, start: int = 1) -> Process:
        return self._process(self._loop.run(self._inner.attach(pid, start)))

    def signal(self, pid: str, message: str | bytes) -> None:
        self._loop.run(self._inner.signal(pid, message))

    def terminate(self, pid: str, reason: str = "terminated by its owner") -> None:
        self._loop.run(self._inner.terminate(pid, reason))

    def list(self, *, ended: bool = False) -> builtins.list[ProcessInfo]:
        return self._loop.run(self._inner.list(ended=ended))

    def register_mcp(
        self,
        name: str,
        command: Sequence[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        handler: Handler | None = None,
    ) -> None:
        """`handler` is a coroutine function; it runs on the client's own thread."""
        self._loop.run(_registered(self._inner, name, command, env, handler))

    def status(self) -> StatusReport:
        return self._loop.run(self._inner.status())

    def pages(self) -> PagesReport:
        return self._loop.run(self._inner.pages())

    def adapters(self, model: str = "") -> builtins.list[EngineAdapters]:
        return self._loop.run(self._inner.adapters(model))

    def load_adapter(self, name: str, folder: str, model: str = "") -> builtins.list[EngineAdapters]:
        return self._loop.run(self._inner.load_adapter(name, folder, model))

    def unload_adapter(self, adapter: str, model: str = "") -> builtins.list[EngineAdapters]:
        return self._loop.run(self._inner.unload_adapter(adapter, model))

    def topics(self) -> builtins.list[TopicInfo]:
        return self._loop.run(self._inner.topics())

    def dead_messages(self, topic: str) -> builtins.list[DeadMessage]:
        return self._loop.run(self._inner.dead_messages(topic))

    def purge(self, topic: str, *, waiting: bool = False) -> int:
        return self._loop.run(self._inner.purge(topic, waiting=waiting))

    def _process(self, inner: AsyncProcess) -> Process:
        return Process(self._loop, inner)


async def _registered(
    client: AsyncClient,
    name: str,
    command: Sequence[str] | None,
    env: Mapping[str, str] | None,
    handler: Handler | None,
) -> None:
    client.register_mcp(name, command, env=env, handler=handler)


async def _closed(client: AsyncClient) -> None:
    client.close()
