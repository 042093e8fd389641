"""Programs that launch programs, as real processes, and `kill -9` in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from e2e_stack import Stack, eventually
from pie_wire.capabilities import Grants
from pie_wire.errors import PieError, ProcessLost
from pie_zmq import Client

WORKER = b"""
import asyncio

async def main(n: int, seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    if n < 0:
        raise ValueError("negative")
    return n * n
"""
FAMILY = b"""
from inferlet import PieError, launch

async def main(seconds: float = 0.0, count: int = 3):
    stays = launch("e2e-worker", {"n": 100, "seconds": seconds}, detached=True)
    children = [launch("e2e-worker", {"n": n, "seconds": seconds}) for n in range(count)]
    broken = launch("e2e-worker", {"n": -1})
    idle = launch("e2e-worker@1.0.0", {"n": 1, "seconds": 600})
    idle.cancel()
    codes = []
    for child in (broken, idle, launch("e2e-nothing")):
        try:
            await child.result()
        except PieError as exc:
            codes.append(exc.code)
    return {"squares": [await child.result() for child in children], "codes": codes, "stays": stays.pid}
"""
MANIFEST = '[package]\nname = "e2e-worker"\nversion = "1.0.0"\n'
MAY = Grants(children=True)


@pytest.fixture
def client(scripted: Stack) -> Iterator[Client]:
    with scripted.client() as made:
        made.install(WORKER, MANIFEST)
        yield made


def launch(client: Client, **given: object):
    return client.launch(f"sha256:{client.upload(FAMILY)}", given, allow=MAY)


def living(client: Client) -> set[str]:
    return {info.pid for info in client.list()}


def test_a_family(client: Client):
    process = launch(client)

    result = process.result(60)

    assert result["squares"] == [0, 1, 4]
    assert result["codes"] == ["program_error", "cancelled", "not_found"]
    assert client.attach(result["stays"]).result(30) == 10_000
    parents = {info.parent for info in client.list(ended=True) if info.program == "e2e-worker@1.0.0"}
    assert process.pid in parents


def test_it_needs_the_capability(client: Client):
    process = client.launch(f"sha256:{client.upload(FAMILY)}", {})

    with pytest.raises(PieError, match="children = true"):
        process.result(30)


BOMB = b"""
import asyncio
from inferlet import PieError, launch

async def main():
    try:
        children = [launch("e2e-bomb") for _ in range(1000)]
    except PieError as exc:
        if exc.code != "limit_exceeded":
            raise
    await asyncio.sleep(600)
"""
BOMB_MANIFEST = '[package]\nname = "e2e-bomb"\nversion = "1.0.0"\n[capabilities]\nchildren = true\n'


@pytest.mark.slow
def test_a_fork_bomb_is_bounded_and_ends_with_its_root(client: Client):
    client.install(BOMB, BOMB_MANIFEST)
    root = client.launch("e2e-bomb", allow=MAY)
    eventually("it is large", lambda: len(living(client)) > 100, 60)
    for _ in range(20):
        assert len(living(client)) <= 256
        time.sleep(0.1)

    root.terminate()

    eventually("nothing is left", lambda: not living(client), 60)
    assert launch(client).result(60)["squares"] == [0, 1, 4]


@pytest.mark.slow
def test_killing_the_parent_ends_all_but_the_detached(client: Client):
    process = launch(client, seconds=600)
    eventually("all run", lambda: len(living(client)) == 5)

    process.terminate()

    (left,) = eventually("the others end", lambda: living(client) if len(living(client)) == 1 else None)
    detached = next(info for info in client.list() if info.pid == left)
    assert detached.detached
    client.terminate(left)


@pytest.mark.slow
def test_the_runner_of_the_parent_dies(scripted: Stack, client: Client):
    process = launch(client, seconds=600, count=6)
    eventually("all run", lambda: len(living(client)) == 8)
    runner = next(info.runner for info in client.list() if info.pid == process.pid)

    killed = scripted.kill(runner)

    with pytest.raises(ProcessLost):
        process.result(30)
    eventually("nobody is left but detached ones", lambda: all(info.detached for info in client.list()))
    scripted.wait_restarted(killed)
    for pid in living(client):
        client.terminate(pid)


@pytest.mark.slow
def test_the_gateway_dies(scripted: Stack, client: Client):
    process = launch(client, seconds=4.0)
    eventually("all run", lambda: len(living(client)) == 5)

    killed = scripted.kill("gateway")

    assert process.result(60)["squares"] == [0, 1, 4]
    scripted.wait_restarted(killed)


@pytest.mark.slow
def test_kvstore_dies(scripted: Stack, client: Client):
    process = launch(client, seconds=2.0)
    eventually("all run", lambda: len(living(client)) == 5)

    killed = scripted.kill("kvstore")

    assert process.result(60)["squares"] == [0, 1, 4]
    scripted.wait_restarted(killed)
