"""The operator's tool servers, on the loop aside. One is started when it is first asked, is shared by all programs, and
is started again, ever later, when it has gone or hangs. A command's process ends with the runner.

idle --ask--> starting --initialize--> up --the connection breaks, nothing is answered--> idle, not before `retry_at`
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import cast

import structlog
from pie_wire import mcp_calls
from pie_wire.errors import DeadlineExceeded, NotFound, PieError, Unavailable

from pie_runner.outside.mcp_config import ServerConfig
from pie_runner.outside.mcp_connection import PING_SECONDS, McpConnection, opened
from pie_runner.outside.turnstile import Turnstile
from pie_runner.process_limits import ProcessLimits

START_SECONDS = 20.0
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
CLOSE_SECONDS = 10.0
PLACES = 64
"""Calls of one server at once, shared among tenants: more wait for their turn, within their time."""

log = structlog.get_logger("pie.mcp")


class McpServers:
    """All of them, by name. Methods that are coroutines belong to the loop aside."""

    def __init__(self, servers: Mapping[str, ServerConfig], seconds: float = 60.0) -> None:
        """`seconds`: the runner's limit of one call, by which a server is judged to hang."""
        self._servers = {name: _Server(name, config, seconds) for name, config in servers.items()}

    @property
    def names(self) -> list[str]:
        return sorted(self._servers)

    async def connect(self, name: str) -> None:
        """Start it, if need be. Raises NotFound, Unavailable."""
        await self._server(name).connected()

    async def ask(self, name: str, method: str, params: str, tenant: str, limits: ProcessLimits) -> str:
        """A call's result as JSON text. Raises PieError."""
        return await self._server(name).ask(method, params, tenant, limits)

    def _server(self, name: str) -> _Server:
        server = self._servers.get(name)
        if server is None:
            raise NotFound(f"there is no tool server {name!r}")
        return server


class _Server:
    def __init__(self, name: str, config: ServerConfig, seconds: float) -> None:
        self._name = name
        self._config = config
        self._seconds = seconds
        self._connection: McpConnection | None = None
        self._pause = 0.0
        self._retry_at = 0.0
        self._turnstile = Turnstile(PLACES)

    async def connected(self) -> McpConnection:
        """A connection that is up. Raises Unavailable."""
        connection = self._connection
        if connection is None:
            if time.monotonic() < self._retry_at:
                left = self._retry_at - time.monotonic()
                raise Unavailable(f"the tool server {self._name} has failed: it is started again in {left:.1f} s")
            connection = self._connection = McpConnection()
            connection.start(self._run(connection))
        await asyncio.shield(connection.session)
        return connection

    async def ask(self, method: str, params: str, tenant: str, limits: ProcessLimits) -> str:
        """Make a call. Raises PieError."""
        from mcp.types import PaginatedRequestParams

        mcp_calls.check_params(method, params)
        connection: McpConnection | None = None
        try:
            async with asyncio.timeout(limits.mcp_seconds), self._turnstile.place(tenant):
                connection = await self.connected()
                answer = await mcp_calls.ask(
                    connection.session.result(),
                    lambda cursor: PaginatedRequestParams(cursor=cursor),
                    method,
                    params,
                    limits.mcp_bytes,
                )
        except TimeoutError as exc:
            late = f"{self._name} did not answer within {limits.mcp_seconds:g} s (`mcp_seconds`)"
            if connection is None:
                late += (
                    f"; {self._turnstile.held(tenant)} calls of tenant {tenant} are with it, of {PLACES} that may be"
                )
            if connection is not None and await connection.hangs(self._seconds):
                self._end(connection, "it hangs")
                late += ", and hangs: its connection is closed, and a later call starts it again"
            raise DeadlineExceeded(late) from exc
        except asyncio.CancelledError:
            if connection is not None:
                connection.start(self._check(connection, self._seconds))
            raise
        except Unavailable:
            # What broke is not always told apart from what the server said: a server that still answers stays.
            if connection is not None and not await connection.is_alive(PING_SECONDS):
                self._end(connection, "it has gone")
            raise
        except PieError:
            if connection is not None:
                connection.answered()
            raise
        connection.answered()
        return answer

    async def _check(self, connection: McpConnection, seconds: float) -> None:
        """A caller gave up before the time of its call: find out whether the server answers anything in that time."""
        if not connection.is_checked:
            connection.is_checked = True
            if not await connection.is_alive(seconds):
                self._end(connection, "it hangs")
            connection.is_checked = False

    def _end(self, connection: McpConnection, reason: str) -> None:
        """Use a connection no more, and have it closed. Without a reason it is the runner that ends."""
        if self._connection is connection:
            self._connection = None
            self._pause = 0.0 if connection.was_calm else min(LAST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
            self._retry_at = time.monotonic() + self._pause
            if reason:
                log.warning("a tool server has failed", server=self._name, reason=reason)
            connection.broken.set()

    async def _run(self, connection: McpConnection) -> None:
        session, reason = connection.session, ""
        try:
            async with asyncio.timeout(START_SECONDS) as limit, opened(self._config) as found:
                limit.reschedule(None)
                log.info("a tool server is up", server=self._name)
                session.set_result(found)
                await connection.broken.wait()
                limit.reschedule(asyncio.get_running_loop().time() + CLOSE_SECONDS)
        except asyncio.CancelledError:
            session.cancel()
            raise
        except Exception as exc:  # noqa: BLE001 - whatever the package raises, the server is not there
            if session.done():
                reason = "its connection broke" if isinstance(exc, TimeoutError) else _innermost(exc)
            else:
                reason = "it did not start in time" if isinstance(exc, TimeoutError) else _innermost(exc)
                session.set_exception(Unavailable(f"the tool server {self._name} cannot be had: {reason}"))
                session.exception()  # whoever asked has it, or has gone
        finally:
            self._end(connection, reason)


def _innermost(exc: BaseException) -> str:
    """What a task group's error is about."""
    if isinstance(exc, BaseExceptionGroup):
        return _innermost(cast("BaseExceptionGroup[BaseException]", exc).exceptions[0])
    return f"{type(exc).__name__}: {exc}"
