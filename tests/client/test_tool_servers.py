"""Tool servers on the client's machine: handlers, and commands of the real package."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pie_wire.messages.client import CallTool
from pie_zmq import AsyncClient, Client
from pie_zmq.errors import BadField, BadRequest, NotFound, PieError, TooLarge, Unavailable, Unsupported
from pie_zmq.testing import FakePie
from pie_zmq.tool_servers import ToolServers

CALCULATOR = [sys.executable, str(Path(__file__).parents[1] / "runner" / "mcp_calculator.py")]


async def handler(method: str, params: dict[str, Any]) -> Any:
    if method == "tools/list":
        return [{"name": "double", "inputSchema": {"type": "object"}}]
    match params["name"]:
        case "double":
            return {"content": [{"type": "text", "text": str(2 * params["arguments"]["n"])}]}
        case "huge":
            return {"text": "x" * (5 << 20)}
        case "typed":
            raise NotFound("no such thing")
        case _:
            raise ValueError("on purpose")


@pytest.fixture
def servers() -> ToolServers:
    made = ToolServers()
    made.register("mine", None, None, handler)
    return made


def ask(servers: ToolServers, method: str, params: object, name: str = "mine") -> Any:
    text = params if isinstance(params, str) else json.dumps(params)
    return json.loads(asyncio.run(servers.ask(name, method, text)))


def test_a_handler_answers(servers: ToolServers):
    assert servers.names == ["mine"]
    assert ask(servers, "tools/list", {})[0]["name"] == "double"
    doubled = ask(servers, "tools/call", {"name": "double", "arguments": {"n": 4}})
    assert doubled["content"][0]["text"] == "8"


@pytest.mark.parametrize(
    ("name", "method", "params", "error"),
    [
        ("other", "tools/list", {}, NotFound),
        ("mine", "tools/delete", {}, Unsupported),
        ("mine", "tools/call", {}, BadRequest),
        ("mine", "tools/call", {"name": 1}, BadRequest),
        ("mine", "tools/call", {"name": "double", "arguments": [1]}, BadRequest),
        ("mine", "tools/call", "not json", BadRequest),
        ("mine", "tools/call", {"name": "huge"}, TooLarge),
        ("mine", "tools/call", {"name": "typed"}, NotFound),
        ("mine", "tools/call", {"name": "raises"}, Unavailable),
    ],
)
def test_whatever_goes_wrong_is_typed(
    servers: ToolServers, name: str, method: str, params: object, error: type[PieError]
):
    with pytest.raises(error):
        ask(servers, method, params, name)


def test_bad_registrations_are_refused(servers: ToolServers):
    for name, command, made in (("a b", None, handler), ("*", None, handler), ("x", None, None), ("x", ["y"], handler)):
        with pytest.raises(BadField):
            servers.register(name, command, None, made)


@pytest.mark.slow
def test_a_command_is_started_and_started_again(servers: ToolServers):
    async def run() -> list[Any]:
        servers.register("calc", CALCULATOR, None, None)
        added = await servers.ask("calc", "tools/call", '{"name": "add", "arguments": {"a": 1, "b": 2}}')
        with pytest.raises(Unavailable):
            await servers.ask("calc", "tools/call", '{"name": "die"}')
        for _ in range(100):
            try:
                again = await servers.ask("calc", "tools/list", "{}")
                break
            except Unavailable:
                await asyncio.sleep(0.1)
        servers.close()
        await asyncio.sleep(0.1)
        return [json.loads(added), json.loads(again)]

    added, tools = asyncio.run(run())
    assert added["content"][0]["text"] == "3"
    assert len(tools) > 3


@pytest.mark.slow
def test_a_command_that_is_no_server_is_unavailable(servers: ToolServers):
    servers.register("none", ["/does/not/exist"], None, None)
    with pytest.raises(Unavailable, match="/does/not/exist"):
        ask(servers, "tools/list", {}, "none")


def test_a_launch_names_the_servers_and_calls_of_the_gateway_are_answered():
    async def run() -> list[Any]:
        pie = FakePie({"p": lambda run, given: run.receive()})
        client = await AsyncClient.connect(transport=pie)
        client.register_mcp("mine", handler=handler)
        process = await client.launch("p")
        [held] = [p for p in pie._processes.values() if p.launch.pid == process.pid]
        answers: list[Any] = []
        call = CallTool(process.pid, "mine", "tools/list", "{}")
        pie.hub.request(held.owner, call, answers.append, timeout=5.0)
        pie.hub.request(held.owner, CallTool(process.pid, "x", "tools/list", "{}"), answers.append, timeout=5.0)
        for _ in range(100):
            pie.dispatch()
            await asyncio.sleep(0.01)
            if len(answers) == 2:
                break
        client.close()
        return [held.launch.mcp, *answers]

    names, good, bad = asyncio.run(run())
    assert names == ["mine"]
    assert {json.loads(a.value().result)[0]["name"] for a in (good, bad) if a.error is None} == {"double"}
    assert [a.error.code for a in (good, bad) if a.error is not None] == ["not_found"]


def test_the_synchronous_client_registers_too():
    with Client(transport=FakePie()) as client:
        client.register_mcp("mine", handler=handler)
        with pytest.raises(BadField):
            client.register_mcp("mine")
