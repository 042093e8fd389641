"""How commands reach the gateway: PIE_ENDPOINT, else the stack of this Pie home."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pie_wire.errors import BadRequest, NotFound, Unavailable
from pie_zmq import AsyncClient

from pie_cli.paths import StackPaths
from pie_cli.state import running

T = TypeVar("T")

CONNECT_TIMEOUT = 10.0


def gateway_endpoint() -> str:
    """Raises Unavailable when no stack is up here and PIE_ENDPOINT names none elsewhere."""
    if endpoint := os.environ.get("PIE_ENDPOINT"):
        return endpoint
    state = running(StackPaths.default())
    if state is None:
        raise Unavailable("Pie is not running: start it with `pie up`")
    return state.endpoint


@asynccontextmanager
async def connected() -> AsyncGenerator[AsyncClient]:
    """A client, closed at the end. Raises Unavailable."""
    client = await AsyncClient.connect(gateway_endpoint(), connect_timeout=CONNECT_TIMEOUT)
    try:
        yield client
    finally:
        client.close()


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    return asyncio.run(work)


async def find_process(client: AsyncClient, pid: str) -> str:
    """The whole id of a process that the user named by its first digits. Raises NotFound, BadRequest."""
    if len(pid) == 32:
        return pid
    found = [p.pid for p in await client.list(ended=True) if p.pid.startswith(pid)]
    if len(found) > 1:
        raise BadRequest(f"{pid!r} fits {len(found)} processes: give more digits")
    if not found:
        raise NotFound(f"no process {pid!r}: see `pie ps --all`")
    return found[0]
