"""The operator's tool servers, on the loop aside. One is started when it is first asked, is shared by all programs, and
is started again, ever later, when it has gone. A command's process ends with the runner.

idle --ask--> starting --initialize--> up --the session breaks--> idle, not before `retry_at`
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
from pie_wire import mcp_calls
from pie_wire.errors import DeadlineExceeded, NotFound, Unavailable

from pie_runner.outside.mcp_config import ServerConfig

START_SECONDS = 20.0
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
CALM_SECONDS = 60.0
"""A server that lived so long is started again without a pause."""

log = structlog.get_logger("pie.mcp")

# Runs a command that the kernel ends with the thread that started it (PR_SET_PDEATHSIG), which lives as long as we do.
_DIES_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class McpSettings:
    """Limits of programs' calls."""

    requests: int = 16
    """Of one process at once."""
    seconds: float = 60.0
    """One call."""
    bytes: int = 4 << 20
    """One answer."""


class McpServers:
    """All of them, by name. Methods that are coroutines belong to the loop aside."""

    def __init__(self, servers: Mapping[str, ServerConfig], settings: McpSettings) -> None:
        self.settings = settings
        self._servers = {name: _Server(name, config) for name, config in servers.items()}

    @property
    def names(self) -> list[str]:
        return sorted(self._servers)

    async def connect(self, name: str) -> None:
        """Start it, if need be. Raises NotFound, Unavailable."""
        await self._server(name).session()

    async def ask(self, name: str, method: str, params: str) -> str:
        """A call's result as JSON text. Raises PieError."""
        server = self._server(name)
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await server.ask(method, params, self.settings.bytes)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{name} did not answer within {self.settings.seconds:g} s (`mcp_seconds`)") from exc

    def _server(self, name: str) -> _Server:
        server = self._servers.get(name)
        if server is None:
            raise NotFound(f"there is no tool server {name!r}")
        return server


class _Server:
    def __init__(self, name: str, config: ServerConfig) -> None:
        self._name = name
        self._config = config
        self._session: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._pause = 0.0
        self._retry_at = 0.0

    async def session(self) -> Any:
        """The session, once it is up. Raises Unavailable."""
        if self._session is None:
            if time.monotonic() < self._retry_at:
                left = self._retry_at - time.monotonic()
                raise Unavailable(f"the tool server {self._name} has failed: it is started again in {left:.1f} s")
            self._session = asyncio.get_running_loop().create_future()
            self._broken = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(self._session, self._broken))
        return await asyncio.shield(self._session)

    async def ask(self, method: str, params: str, most: int) -> str:
        from mcp.types import PaginatedRequestParams

        mcp_calls.checked_params(method, params)
        session, broken = await self.session(), self._broken
        try:
            return await mcp_calls.ask(
                session, lambda cursor: PaginatedRequestParams(cursor=cursor), method, params, most
            )
        except Unavailable:
            # What broke is not always told apart from what the server said: a server that still answers stays.
            if not await _answers(session):
                broken.set()
            raise

    async def _run(self, session: asyncio.Future[Any], broken: asyncio.Event) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(START_SECONDS) as limit, _connected(self._config) as found:
                limit.reschedule(None)
                log.info("a tool server is up", server=self._name)
                session.set_result(found)
                await broken.wait()
        except asyncio.CancelledError:
            if not session.done():
                session.cancel()
            raise
        except Exception as exc:  # noqa: BLE001 - whatever the package raises, the server is not there
            reason = "it did not start in time" if isinstance(exc, TimeoutError) else _innermost(exc)
            log.warning("a tool server has failed", server=self._name, reason=reason)
            if not session.done():
                session.set_exception(Unavailable(f"the tool server {self._name} cannot be had: {reason}"))
                session.exception()  # whoever asked has it, or has gone
        finally:
            calm = session.done() and time.monotonic() - began > CALM_SECONDS
            self._pause = 0.0 if calm else min(LAST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
            self._retry_at = time.monotonic() + self._pause
            self._session = None


async def _answers(session: Any) -> bool:
    """Whether a server is alive."""
    try:
        async with asyncio.timeout(2.0):
            await session.send_ping()
    except Exception:  # noqa: BLE001 - a server that cannot say so is not alive
        return False
    return True


@asynccontextmanager
async def _connected(config: ServerConfig) -> AsyncGenerator[Any]:
    """A session with a server, initialised."""
    # The package takes a second to import: only those who use it pay.
    import httpx2
    from mcp import ClientSession, StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if config.command:
        command = config.command
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-c", _DIES_WITH_US, str(os.getpid()), *command]
        parameters = StdioServerParameters(
            command=command[0], args=command[1:], env=dict(config.env), cwd=config.cwd or None
        )
        with open(os.devnull, "w") as errors:  # noqa: PTH123, ASYNC230 - what servers say there is for their authors
            async with stdio_client(parameters, errors) as streams, ClientSession(*streams) as session:
                await session.initialize()
                yield session
    else:
        async with (
            httpx2.AsyncClient(headers=dict(config.headers), trust_env=False, timeout=None) as client,
            streamable_http_client(config.url, http_client=client) as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            yield session


def _innermost(exc: BaseException) -> str:
    """What a task group's error is about."""
    if isinstance(exc, BaseExceptionGroup):
        return _innermost(cast("BaseExceptionGroup[BaseException]", exc).exceptions[0])
    return f"{type(exc).__name__}: {exc}"
