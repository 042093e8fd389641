"""Tool servers of programs: real ones, started and shared by the runner, and those that the client runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pie_runner.outside import mcp_servers
from pie_runner.outside.mcp_config import ServerConfig, read_servers
from pie_runner.outside.mcp_servers import McpServers
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import BadRequest, NotFound, Unavailable
from pie_wire.messages.gateway import AskTool, ToolAnswered
from pie_wire.messages.runner import Kill
from runner_world import World

CALCULATOR = [sys.executable, str(Path(__file__).with_name("mcp_calculator.py"))]
CALC = Grants(mcp=["calc"])
ALLOWED = Capabilities(CALC, CALC)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "pids"


@pytest.fixture
def make(model_files: dict[str, bytes], note: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def made(config: ServerConfig | None = None, **given: Any) -> World:
        env = {"NOTE_PID": str(note)}
        servers = {"calc": config or ServerConfig(command=CALCULATOR, env=env)}
        limits = ProcessLimits(**given)
        world = World(model_files, limits, mcp=McpServers(servers, limits.mcp_seconds))
        worlds.append(world)
        return world

    yield made
    for world in worlds:
        world.aside.close()


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def pids(note: Path) -> list[int]:
    return [int(line) for line in note.read_text().split()] if note.exists() else []


async def answer_of(api: Any, session: Any, function: str, *arguments: str) -> Any:
    """The JSON of a call, or the code of its error; of one that is `told`, the error's text too."""
    if function == "told":
        return await told_of(api, session, *arguments)
    try:
        pending = await api.call("mcp", f"[method]session.{function}", session, *arguments)
        return json.loads(await api.wait("mcp.pending-answer", pending))
    except CallError as exc:
        return exc.code


async def told_of(api: Any, session: Any, function: str, *arguments: str) -> Any:
    try:
        return await api.wait(
            "mcp.pending-answer", await api.call("mcp", f"[method]session.{function}", session, *arguments)
        )
    except CallError as exc:
        return exc.code, str(exc)


def run(
    world: World, *calls: tuple[str, ...], capabilities: Capabilities = ALLOWED, pid: str = "p1", **fields: Any
) -> Any:
    async def main(api: Any, text: str) -> str:
        names = await api.call("mcp", "servers")
        try:
            session = await api.call("mcp", "connect", "calc")
        except CallError as exc:
            return json.dumps([names, exc.code, str(exc)])
        return json.dumps([names, *[await answer_of(api, session, *call) for call in calls]])

    world.start(main, pid=pid, capabilities=capabilities, **fields)
    finish(world, pid)
    last = world.log(pid)[-1]
    assert last.kind == "return", last
    return json.loads(last.text)


def finish(world: World, pid: str = "p1", seconds: float = 30.0) -> None:
    world.run_in_real_time(lambda: world.ended(pid), seconds)


def until_it_works(world: World, note: Path, lives: int) -> None:
    """Call the server until it answers, in its so many-th life."""
    end = time.monotonic() + 15
    while True:
        answer = run(world, called("add", a=1, b=1), pid=f"q{world.wires.now}")[1]
        if isinstance(answer, dict) and len(pids(note)) == lives:
            return
        assert time.monotonic() < end, (answer, pids(note))
        time.sleep(0.2)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def called(name: str, **arguments: Any) -> tuple[str, str, str]:
    return ("call-tool", name, json.dumps(arguments))


def test_every_call_works_and_one_server_serves_all(world: World, note: Path):
    calls = (
        ("list-tools",),
        called("add", a=2, b=3),
        called("fail"),
        ("list-resources",),
        ("read-resource", "note://today"),
        ("list-prompts",),
        ("get-prompt", "ask", '{"topic": "cats"}'),
        called("environment"),
    )
    names, tools, added, failed, resources, note_, prompts, prompt, environment = run(world, *calls)

    assert names == ["calc"]
    assert {"add", "fail"} < {tool["name"] for tool in tools}
    assert next(tool for tool in tools if tool["name"] == "add")["inputSchema"]["required"] == ["a", "b"]
    assert added["content"][0]["text"] == "5"
    assert failed["isError"] is True
    assert resources[0]["uri"] == "note://today"
    assert note_["contents"][0]["text"] == "a note"
    assert prompts[0]["name"] == "ask"
    assert prompt["messages"][0]["content"]["text"] == "What about cats?"
    assert not any(name.startswith("PIE_") for name in json.dumps(environment).split('"'))

    run(world, called("add", a=1, b=1), pid="p2")
    assert len(pids(note)) == 1


@pytest.mark.slow
def test_rights_decide_which_servers_there_are(world: World, note: Path):
    asked = Capabilities(CALC, Grants())
    names, code, message = run(world, capabilities=asked)
    assert (names, code) == ([], "forbidden")
    assert 'mcp = ["calc"]' in message
    assert run(world, capabilities=Capabilities(), pid="p2")[:2] == [[], "forbidden"]
    assert run(world, capabilities=Capabilities(CALC, Grants(mcp=["*"])), pid="p3") == [["calc"]]


def test_a_server_that_is_not_there(world: World):
    async def main(api: Any, text: str) -> str:
        await api.call("mcp", "connect", "other")
        return "1"

    every = Grants(mcp=["*"])
    world.start(main, capabilities=Capabilities(every, every))
    finish(world)
    assert world.log()[-1].error.cause == "not_found"


@pytest.mark.slow
def test_what_a_server_refuses_is_typed(world: World):
    answers = run(
        world,
        ("call-tool", "add", "not json"),
        ("call-tool", "add", "[1]"),
        ("call-tool", "", "{}"),
        ("read-resource", "note://none"),
        ("get-prompt", "none", "{}"),
    )[1:]
    assert answers[:3] == ["bad_request"] * 3
    assert set(answers[3:]) <= {"bad_request", "not_found", "unavailable"}

    unknown, wrong = run(world, called("none"), called("add", a="x", b=2), pid="p2")[1:]
    for answer in (unknown, wrong):
        assert answer == "bad_request" or answer["isError"]


@pytest.mark.slow
def test_answers_and_waits_are_bounded(make: Callable[..., World]):
    world = make(mcp_bytes=10_000, mcp_seconds=3.0)
    run(world, called("add", a=1, b=1))
    big, late, fine = run(
        world, called("big", size=20_000), called("sleep", seconds=4), called("big", size=5), pid="p2"
    )[1:]

    assert (big, late) == ("limit_exceeded", "deadline_exceeded")
    assert fine == "deadline_exceeded" or fine["content"][0]["text"] == "xxxxx"


def test_calls_at_once_are_counted(make: Callable[..., World]):
    world = make(mcp_requests=2)

    async def main(api: Any, text: str) -> str:
        session = await api.call("mcp", "connect", "calc")
        held = [await api.call("mcp", "[method]session.list-tools", session) for _ in range(2)]
        try:
            await api.call("mcp", "[method]session.list-tools", session)
        except CallError as exc:
            message = str(exc)
        for item in held:
            api.drop(item)
        return json.dumps([message, await answer_of(api, session, *called("add", a=1, b=1))])

    world.start(main, capabilities=ALLOWED)
    finish(world)
    message, added = json.loads(world.log()[-1].text)

    assert "mcp_requests = 2" in message
    assert added["isError"] is False


@pytest.mark.slow
def test_a_tenant_whose_calls_hang_leaves_the_server_to_others(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    """Those of one's own that find no place end in their time, and say so."""
    monkeypatch.setattr(mcp_servers, "PLACES", 4)
    world = make(mcp_seconds=6.0)
    run(world, called("add", a=1, b=1), pid="first")

    def hangs(calls: int) -> Any:
        async def main(api: Any, text: str) -> str:
            session = await api.call("mcp", "connect", "calc")
            asked = [await api.call("mcp", "[method]session.call-tool", session, "never", "{}") for _ in range(calls)]
            await api.call("session", "send", "asked", "wait")
            ends: list[str] = []
            for one in asked:
                try:
                    await api.wait("mcp.pending-answer", one)
                except CallError as exc:
                    ends.append(str(exc))
            return json.dumps(ends)

        return main

    def start(pid: str, calls: int) -> None:
        world.start(hangs(calls), pid=pid, capabilities=ALLOWED, tenant="hog")
        world.run_in_real_time(lambda: len(world.log(pid)) >= 2, 30.0)

    start("p1", 2)
    hog = world.runner.facilities.tenants._used["hog"]
    # Who finds no place gives up while the others still have theirs.
    hog.process_limits = ProcessLimits(mcp_seconds=3.0)
    start("p2", 1)
    added = run(world, called("add", a=1, b=1), pid="other", tenant="other")[1]
    assert not world.ended("p1")
    assert not world.ended("p2")
    finish(world, "p2")
    finish(world)

    assert added["content"][0]["text"] == "2"
    ends = json.loads(world.log()[-1].text) + json.loads(world.log("p2")[-1].text)
    assert [("of 4 that may be" in text, "did not answer" in text) for text in ends] == [(False, True)] * 2 + [
        (True, True)
    ]


@pytest.mark.slow
def test_a_server_that_dies_is_started_again(world: World, note: Path):
    died = run(world, called("die"))[1]
    assert died == "unavailable"

    until_it_works(world, note, lives=2)


@pytest.mark.slow
def test_a_server_that_hangs_is_ended_and_started_again(make: Callable[..., World], note: Path):
    world = make(mcp_seconds=2.0)
    code, message = run(world, ("told", *called("stop")))[1]

    assert code == "deadline_exceeded"
    assert "its connection is closed" in message
    [old] = pids(note)
    until_it_works(world, note, lives=2)
    world.run_in_real_time(lambda: not alive(old), 10.0)


@pytest.mark.slow
def test_a_server_that_hangs_in_one_call_goes_on_for_others(make: Callable[..., World], note: Path):
    world = make(mcp_seconds=2.0)
    late, added = run(world, called("never"), called("add", a=1, b=1))[1:]

    assert late == "deadline_exceeded"
    assert added["content"][0]["text"] == "2"
    assert len(pids(note)) == 1


@pytest.mark.slow
def test_a_server_that_answers_no_call_for_long_is_ended_though_it_answers_pings(
    make: Callable[..., World], note: Path
):
    world = make(mcp_seconds=1.0)
    run(world, *[called("never")] * 3)
    until_it_works(world, note, lives=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hung_server_is_found_though_programs_wait_less_long_than_may_be(make: Callable[..., World], note: Path):
    world = make(mcp_seconds=3.0)

    async def main(api: Any, text: str) -> str:
        session = await api.call("mcp", "connect", "calc")
        return await answer_of(api, session, *called("stop"))

    world.start(main, capabilities=ALLOWED)
    world.run_in_real_time(lambda: bool(pids(note)), 30.0)
    status = Path(f"/proc/{pids(note)[0]}/status")
    world.run_in_real_time(lambda: "(stopped)" in status.read_text(), 30.0)
    world.push(Kill("p1", "by the test"))
    finish(world)
    until_it_works(world, note, lives=2)


@pytest.mark.slow
def test_a_program_that_is_killed_while_it_waits_leaves_nothing(world: World):
    async def main(api: Any, text: str) -> str:
        session = await api.call("mcp", "connect", "calc")
        await answer_of(api, session, *called("sleep", seconds=30))
        return "1"

    world.start(main, capabilities=ALLOWED)
    world.run_in_real_time(lambda: "p1" in world.runner.processes, 30.0)
    process = world.runner.processes["p1"]
    world.run_in_real_time(lambda: len(process.waitables) == 1, 30.0)
    world.push(Kill("p1", "by the test"))
    finish(world)

    assert len(process.waitables) == 0
    assert process.outside.tools._under_way == 0


@pytest.mark.parametrize(
    "command", [["/does/not/exist"], [sys.executable, "-c", "pass"], [sys.executable, "-c", "print('x')"]]
)
def test_a_command_that_is_no_server_is_unavailable_and_not_tried_at_once_again(
    make: Callable[..., World], command: list[str]
):
    world = make(ServerConfig(command=command))

    assert run(world)[1] == "unavailable"
    assert "started again in" in run(world, pid="p2")[2]


@pytest.mark.slow
def test_a_server_over_http(make: Callable[..., World]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([*CALCULATOR, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 20
            while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < end:
                time.sleep(0.05)
            world = make(ServerConfig(url=f"http://127.0.0.1:{port}/mcp"))
            assert run(world, called("add", a=20, b=1))[1]["content"][0]["text"] == "21"
        finally:
            process.kill()


OWNER = """
import asyncio, sys, os
from pathlib import Path
from pie_runner.outside.mcp_config import ServerConfig
from pie_runner.outside.mcp_servers import McpServers
async def main():
    servers = McpServers({"calc": ServerConfig(command=sys.argv[2:], env={"NOTE_PID": sys.argv[1]})})
    await servers.connect("calc")
    print("up", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends such children on Linux only")
def test_a_killed_runner_takes_its_servers_with_it(note: Path):
    with subprocess.Popen([sys.executable, "-c", OWNER, str(note), *CALCULATOR], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert any(line == b"up\n" for line in owner.stdout)
        [pid] = pids(note)
        owner.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        while Path(f"/proc/{pid}/status").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < end, "the server lives on"
            time.sleep(0.05)


@pytest.mark.slow
def test_closing_the_loop_ends_the_servers(make: Callable[..., World], note: Path):
    world = make()
    run(world, called("add", a=1, b=1))
    [pid] = pids(note)
    world.aside.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_client_s_own_server_needs_no_grant_and_is_asked_through_the_gateway(world: World, note: Path):
    asked: list[AskTool] = []

    def relay(incoming: Any) -> Any:
        asked.append(incoming.message)
        if incoming.message.method == "tools/list":
            raise Unavailable("the client has gone")
        return ToolAnswered('{"content": [], "isError": false}')

    world.gateway.hub.on(AskTool, relay)
    only_asked = Capabilities(CALC, Grants())
    names, added, listed = run(
        world, called("add", a=1), ("list-tools",), capabilities=only_asked, mcp=["calc", "other"]
    )

    assert names == ["calc"]
    assert added == {"content": [], "isError": False}
    assert listed == "unavailable"
    assert [(m.pid, m.server, m.method) for m in asked] == [("p1", "calc", "tools/call"), ("p1", "calc", "tools/list")]
    assert json.loads(asked[0].params) == {"name": "add", "arguments": {"a": 1}}
    assert pids(note) == [], "the operator's server of that name is not touched"


def test_a_call_that_cannot_be_sent_is_not_counted(make: Callable[..., World]):
    world = make(mcp_requests=1)
    world.gateway.hub.on(AskTool, lambda incoming: ToolAnswered("1"))

    results = run(world, ("read-resource", "x" * (17 << 20)), called("add", a=1), capabilities=ALLOWED, mcp=["calc"])

    assert results == [["calc"], "too_large", 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server.a]\n", "command or a url"),
        ("[server.a]\ncommand = ['x']\nurl = 'y'\n", "command or a url"),
        ("[server.a]\ncommand = 'x'\n", "server.a"),
        ("[server.a]\ncommand = ['x']\ncolour = 'red'\n", "colour"),
        ("[server.'a b']\ncommand = ['x']\n", "letters"),
        ("[servers.a]\n", "server.NAME"),
        ("[", "TOML"),
    ],
)
def test_a_bad_list_of_servers_is_refused_where_it_is_wrong(tmp_path: Path, text: str, says: str):
    path = tmp_path / "mcp.toml"
    path.write_text(text)
    with pytest.raises(BadRequest, match=says):
        read_servers(str(path))


def test_a_list_of_servers_is_read(tmp_path: Path):
    path = tmp_path / "mcp.toml"
    path.write_text("[server.a]\ncommand = ['x', 'y']\nenv = {K = 'v'}\n[server.b]\nurl = 'http://127.0.0.1/mcp'\n")

    assert read_servers("") == {}
    assert read_servers(str(path))["a"] == ServerConfig(command=["x", "y"], env={"K": "v"})
    with pytest.raises(BadRequest, match="cannot read"):
        read_servers(str(tmp_path / "none"))
    with pytest.raises(NotFound):
        asyncio.run(McpServers({}).connect("a"))
