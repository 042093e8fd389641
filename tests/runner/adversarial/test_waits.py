"""A kill in every kind of wait: the program ends, and what it held is free, within 200 ms and the engine's step."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from attacks import Attack
from pie_runner.process import Process
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.messages.gateway import AskTool
from pie_wire.messages.runner import Deliver, Kill

WITHIN = 0.2
RIGHTS = Grants(http=["127.0.0.1:*"], filesystem=["scratch"], mcp=["house"], children=True)

SOURCE = """
import asyncio
from inferlet import Context, Grammar, Model, Regex, files, http, launch, mcp, messaging, runtime, scheduling, session

async def main(port):
    await session.receive()
    context = Context()
    context.append([1, 2, 3] * 20)
    session.send("here")
    {body}
"""

UNHELD = {
    "receive": "await session.receive()",
    "receive-file": "await session.receive_file()",
    "sleep": "await asyncio.sleep(1e6)",
    "http": "await http.get(f'http://127.0.0.1:{port}/')",
    "upload": "await http.post(f'http://127.0.0.1:{port}/', body=(b'x' * 65536 for _ in range(200)))",
    "tool server": "await mcp.connect('house').tools()",
    "child": "await launch('other').result()",
    "many at once": "await asyncio.gather(session.receive(), session.receive_file(), asyncio.sleep(1e6), "
    "launch('other').result(), http.get(f'http://127.0.0.1:{port}/'), launch('third').result())",
}
ENGINE = {
    "run": "await context.generate(max_tokens=5).text()",
    "pass": "await context.forward().input([4]).execute()",
    "flush": "await context.flush()",
    "export": "await context.export()",
    "pressure": "await scheduling.when_pressure('high', rising=True)",
    "suspend": "await context.suspend()",
    "runs of forks": "await asyncio.gather(*(context.fork().generate(max_tokens=5).text() for _ in range(20)))",
}
WORKERS = {
    "grammar": "Grammar(Regex('a+'))",
    "tokenizer": "Model.load().tokenizer().encode('word ' * 10_000)",
    "file": "files.write('/scratch/a', b'x' * 1000)",
}
STORE = {
    "pull": "await messaging.pull('jobs')",
    "push": "await messaging.push('jobs', 'x')",
    "broadcast": "await messaging.broadcast('news', 'x')",
    "subscribe": "messaging.subscribe('news')",
    "save": "context.save('name')",
    "pulls": "await asyncio.gather(*(messaging.pull(f'jobs-{i}') for i in range(50)))",
}


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def hold(attack: Attack, held: str) -> None:
    """From now on these do not answer."""
    world = attack.world
    world.engine.paused = held == "engine"
    world.hold_offloads = held == "workers"
    if held == "store":
        world.wires.cut.add("kvstore")


def let_go(attack: Attack) -> None:
    hold(attack, "")
    attack.world.wires.cut.clear()


def is_free(attack: Attack, process: Process) -> bool:
    """Nothing is left here of a process."""
    runner = attack.world.runner
    counts = [len(runner.processes), runner.live, len(runner.timers), len(runner.children), len(process.waitables)]
    outside = [process.outside.requests_under_way, process.outside.tools._under_way]
    return not any([*counts, *outside, *process.contexts, *attack.world.host.driver.fibers])


@pytest.mark.parametrize(
    ("held", "body"),
    [
        pytest.param(held, body, id=name)
        for held, bodies in {"": UNHELD, "engine": ENGINE, "workers": WORKERS, "store": STORE}.items()
        for name, body in bodies.items()
    ],
)
def test_a_kill_frees_everything_in_time(attack: Attack, silent: int, held: str, body: str):
    world = attack.world
    world.gateway.hub.on(AskTool, lambda _: None)
    source = SOURCE.replace("{body}", body).encode()
    rights = Capabilities(RIGHTS, RIGHTS)
    pid = attack.launch(source, f'{{"port": {silent}}}', "python", capabilities=rights, mcp=["house"])
    world.run(lambda: attack.said(pid, "started"))
    world.run(0.1)
    process = world.runner.processes[pid]
    hold(attack, held)
    world.deliver(Deliver(pid, text="go"))
    world.run(lambda: attack.said(pid, "here"))
    world.run(0.2)
    assert not world.ended(pid), world.log(pid)[-1]
    began, worked = world.wires.now, time.thread_time()

    world.push(Kill(pid, "enough"))
    world.run(lambda: world.ended(pid) and is_free(attack, process), limit=WITHIN)
    let_go(attack)
    world.run(lambda: (world.engine.contexts, world.engine.pages_owned) == (0, 0))

    assert attack.end(pid) == "terminated"
    assert world.wires.now - began <= WITHIN
    assert time.thread_time() - worked < WITHIN
    world.run(0.5)
    assert is_free(attack, process)
