"""A real tool server, on its standard streams or (with a port) over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("calculator")

if note := os.environ.get("NOTE_PID"):
    with Path(note).open("a") as file:
        file.write(f"{os.getpid()}\n")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool()
def fail() -> str:
    raise ValueError("on purpose")


@server.tool()
def die() -> str:
    os._exit(1)


@server.tool()
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@server.tool()
def stop() -> str:
    """Hangs altogether, as a deadlocked server does."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


@server.tool()
async def never() -> str:
    """Hangs, while other calls are answered."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
def big(size: int) -> str:
    return "x" * size


@server.tool()
def environment() -> list[str]:
    return sorted(os.environ)


@server.resource("note://today")
def today() -> str:
    return "a note"


@server.prompt()
def ask(topic: str) -> str:
    return f"What about {topic}?"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
