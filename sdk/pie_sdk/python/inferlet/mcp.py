"""Tool servers that speak the Model Context Protocol: the operator's, and those of the client that launched it.

calculator = mcp.connect("calculator")
for tool in await calculator.tools():
    print(tool["name"], tool["inputSchema"])
result = await calculator.call("add", a=1, b=2)
result["isError"], result["content"]
"""

from __future__ import annotations

import json
from typing import Any

from wit_world.imports import mcp as raw

from inferlet import loop
from inferlet.errors import host_errors, unwrap


def servers() -> list[str]:
    """Names that `connect` takes."""
    return raw.servers()


def connect(name: str) -> Server:
    """A server that the manifest asks for. Waits while it starts. Raises PieError."""
    with host_errors():
        return Server(name, raw.connect(name))


class Server:
    """Calls run at the same time as whatever else the program awaits. Each raises PieError: `bad_request` (arguments
    that the server refuses), `not_found`, `unavailable`, `deadline_exceeded`, `limit_exceeded`."""

    def __init__(self, name: str, handle: raw.Session) -> None:
        self.name = name
        self._handle = handle

    def __repr__(self) -> str:
        return f"Server({self.name!r})"

    async def tools(self) -> list[dict[str, Any]]:
        """Each with `name`, `description` and `inputSchema`, a JSON schema."""
        with host_errors():
            pending = self._handle.list_tools()
        return await _answer(pending)

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool. A tool that failed is an answer, with `isError`."""
        with host_errors():
            pending = self._handle.call_tool(tool, json.dumps(arguments))
        return await _answer(pending)

    async def resources(self) -> list[dict[str, Any]]:
        with host_errors():
            pending = self._handle.list_resources()
        return await _answer(pending)

    async def read(self, uri: str) -> dict[str, Any]:
        """A resource's `contents`."""
        with host_errors():
            pending = self._handle.read_resource(uri)
        return await _answer(pending)

    async def prompts(self) -> list[dict[str, Any]]:
        with host_errors():
            pending = self._handle.list_prompts()
        return await _answer(pending)

    async def prompt(self, name: str, /, **arguments: str) -> dict[str, Any]:
        """A prompt's `messages`."""
        with host_errors():
            pending = self._handle.get_prompt(name, json.dumps(arguments))
        return await _answer(pending)


async def _answer(pending: raw.PendingAnswer) -> Any:
    with pending:
        return json.loads(unwrap(await loop.result(pending)))
