"""Tool servers (Model Context Protocol) that programs of this client may call: they run on the client's machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from pie_wire import mcp_calls
from pie_wire.capabilities import MCP_NAME
from pie_wire.errors import BadField, NotFound, PieError, TooLarge, Unavailable, Unsupported

START_SECONDS = 20.0
MAX_ANSWER_BYTES = 4 << 20
AT_ONCE = 64

Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Called with a method of the protocol (`tools/list`, `tools/call`, ...) and its parameters; returns what becomes
JSON: a list for a list, else the result."""


class ToolServers:
    """By name. Belongs to one event loop."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._commands: list[_Command] = []
        self._room = asyncio.Semaphore(AT_ONCE)

    @property
    def names(self) -> list[str]:
        return list(self._handlers)

    def register(
        self, name: str, command: Sequence[str] | None, env: Mapping[str, str] | None, handler: Handler | None
    ) -> None:
        """Raises BadField: the name, or not exactly one of `command` and `handler`."""
        if not MCP_NAME.fullmatch(name):
            raise BadField(f"{name[:80]!r} is no name of a tool server: up to 64 letters, digits, '-', '_' and '.'")
        if (handler is None) == (not command):
            raise BadField("a tool server is either a command or a handler")
        if handler is None:
            started = _Command(list(command or ()), dict(env or {}))
            self._commands.append(started)
            handler = started.ask
        self._handlers[name] = handler

    async def ask(self, server: str, method: str, params: str) -> str:
        """The result of a call, JSON text. Raises PieError."""
        handler = self._handlers.get(server)
        if handler is None:
            raise NotFound(f"this client runs no tool server {server!r}")
        given = mcp_calls.checked_params(method, params)
        async with self._room:
            try:
                text = msgspec.json.encode(await handler(method, given)).decode()
            except PieError:
                raise
            except Exception as exc:
                raise mcp_calls.typed(exc) from exc
        if len(text) > MAX_ANSWER_BYTES:
            raise TooLarge(f"the answer to {method} has {len(text)} bytes, more than {MAX_ANSWER_BYTES}")
        return text

    def close(self) -> None:
        """End the commands."""
        for command in self._commands:
            command.close()


class _Command:
    """A server's process, started at the first call, and again at the next one when it has gone."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._command = command
        self._env = env
        self._session: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        from mcp.types import PaginatedRequestParams

        if self._session is None:
            self._session = asyncio.get_running_loop().create_future()
            self._over = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(self._session, self._over))
        session, over = await asyncio.shield(self._session), self._over
        text = msgspec.json.encode(params).decode()
        try:
            answer = await mcp_calls.ask(
                session, lambda cursor: PaginatedRequestParams(cursor=cursor), method, text, MAX_ANSWER_BYTES
            )
        except Unavailable:
            over.set()  # the next call starts it anew
            raise
        return msgspec.Raw(answer.encode())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, session: asyncio.Future[Any], over: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(START_SECONDS) as limit, _connected(self._command, self._env) as found:
                limit.reschedule(None)
                session.set_result(found)
                await over.wait()
        except ImportError as exc:
            session.set_exception(Unsupported(f"commands need the package `mcp`: pip install mcp ({exc})"))
        except Exception as exc:  # noqa: BLE001 - whatever the package raises, the server is not there
            if not session.done():
                session.set_exception(Unavailable(f"{self._command[0]} cannot be had: {type(exc).__name__}: {exc}"))
        finally:
            if not session.done():
                session.cancel()
            elif not session.cancelled():
                session.exception()  # whoever asked has it, or has gone
            self._session = None


@asynccontextmanager
async def _connected(command: list[str], env: dict[str, str]) -> AsyncGenerator[Any]:
    from mcp import ClientSession, StdioServerParameters, stdio_client

    parameters = StdioServerParameters(command=command[0], args=command[1:], env=env)
    with open(os.devnull, "w") as errors:  # noqa: PTH123, ASYNC230 - what servers say there is for their authors
        async with stdio_client(parameters, errors) as streams, ClientSession(*streams) as session:
            await session.initialize()
            yield session
