"""One life of a tool server: its connection, and whether it still answers."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from pie_runner.outside.mcp_config import ServerConfig

CALM_SECONDS = 60.0
"""A server that lived so long, and answered, is started again without a pause."""
PING_SECONDS = 2.0
"""For a sign of life from a server that owes an answer."""
LATE_ROUNDS = 2
"""A server that answers pings but, for so many times a call's limit after one is late, no call, hangs."""

# Runs a command that the kernel ends with the thread that started it (PR_SET_PDEATHSIG), which lives as long as we do.
_DIES_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


class McpConnection:
    """One life of a server. `session` is set once it is up; `broken` when it is no longer to be used."""

    def __init__(self) -> None:
        self.session: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.broken = asyncio.Event()
        self.has_answered = False
        self.is_checked = False
        self.late_since: float | None = None
        """When a call was first too late, after the last answer."""
        self.began = time.monotonic()
        self.tasks: set[asyncio.Task[None]] = set()
        """What runs it, and what looks after it."""

    @property
    def was_calm(self) -> bool:
        """Whether it was of use for a good while."""
        return self.has_answered and time.monotonic() - self.began > CALM_SECONDS

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a task that ends with it or before."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def answered(self) -> None:
        """It answers calls."""
        self.has_answered = True
        self.late_since = None

    async def hangs(self, seconds: float) -> bool:
        """Whether it does, now that a call had no answer in its time. Calls that merely take long are not that, unless
        nothing else is answered either."""
        now = time.monotonic()
        if self.late_since is None:
            self.late_since = now
        return now - self.late_since >= LATE_ROUNDS * seconds or not await self.is_alive(PING_SECONDS)

    async def is_alive(self, seconds: float) -> bool:
        """Whether it says so."""
        try:
            async with asyncio.timeout(seconds):
                await self.session.result().send_ping()
        except Exception:  # noqa: BLE001 - a server that cannot say so is not alive
            return False
        return True


@asynccontextmanager
async def opened(config: ServerConfig) -> AsyncGenerator[Any]:
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
