"""Limits of each process that a tenant has of its own: one tenant meets its own, another the runner's."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_programs import ask
from pie_runner.process_limits import ProcessLimits
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.errors import LimitExceeded
from pie_wire.messages.runner import Deliver
from pie_wire.tenants import OwnLimits, TenantLimits, TenantTable
from runner_programs import forever
from runner_world import PAGE, World

RIGHTS = Grants(["web:80"], ["scratch", "data"], ["*"], children=True)
MAY = Capabilities(RIGHTS, RIGHTS)
KB = base64.b64encode(bytes(1000)).decode()


@pytest.fixture
def made(model_files: dict[str, bytes], tmp_path: Path) -> Callable[..., World]:
    """Makes a world in which the processes of tenant `acme` have these limits, and those of others the usual ones."""

    def make(**own: Any) -> World:
        table = TenantTable(TenantLimits(), {"acme": TenantLimits(process=OwnLimits(**own))})
        world = World(model_files, ProcessLimits(), tenants=table)
        world.keep_files(tmp_path)
        world.add_engine()
        world.run(lambda: world.runner.engines.names() == ["tiny"] and world.runner.uplink.connected)
        return world

    return make


async def context(api: Any) -> Any:
    model = await api.call("model", "[static]model.load", "")
    return await api.call("context", "[static]context.create", model)


async def opens(api: Any, text: str) -> str:
    await context(api)
    await context(api)
    return "null"


async def appends(api: Any, text: str) -> str:
    made = await context(api)
    for _ in range(2):
        await api.call("context", "[method]context.append", made, [1] * PAGE)
    return "null"


async def talks(api: Any, text: str) -> str:
    for _ in range(2):
        await api.call("session", "send", "x" * 100, "wait")
    return "null"


async def sleeps(api: Any, text: str) -> str:
    await api.wait("futures.done", await api.call("clocks", "sleep", 2 * 10**9))
    return "null"


async def sends_a_file(api: Any, text: str) -> str:
    await api.call("session", "send-file", "a", KB)
    return "null"


async def keeps_files(api: Any, text: str) -> str:
    for room in ("scratch", "data"):
        for name in ("a", "b"):
            await api.call("filesystem", "write", f"/{room}/{name}", KB)
    return "null"


async def asks(api: Any, text: str) -> str:
    held = [await api.call("http", "send", ask("http://web/", method="POST", body=bytes(1000))) for _ in range(2)]
    return json.dumps(len(held))


@pytest.mark.parametrize(
    ("name", "most", "main"),
    [
        ("wall_seconds", 1, sleeps),
        ("tokens", PAGE, appends),
        ("contexts", 1, opens),
        ("pages", 1, appends),
        ("output_bytes", 150, talks),
        ("file_bytes", 900, sends_a_file),
        ("file_bytes", 900, keeps_files),
        ("scratch_bytes", 1500, keeps_files),
        ("data_bytes", 1500, keeps_files),
        ("file_entries", 1, keeps_files),
        ("http_requests", 1, asks),
        ("http_total", 1, asks),
        ("http_bytes", 900, asks),
    ],
)
def test_one_tenant_meets_its_own_limit_and_another_does_not(
    made: Callable[..., World], name: str, most: int, main: Any
):
    world = made(**{name: most})

    theirs, others = (world.outcome(main, pid=name, tenant=name, capabilities=MAY) for name in ("acme", "other"))

    assert theirs.error is not None
    assert f"{name} = {most}" in theirs.error.message
    assert f"`{name}` of [acme.process] in the file `tenants`" in theirs.error.message
    assert others.kind == "return", others


def running(world: World, tenant: str) -> Any:
    world.start(forever, pid=tenant, tenant=tenant, capabilities=MAY)
    world.run(lambda: tenant in world.runner.processes and world.runner.processes[tenant].state == "running")
    return world.runner.processes[tenant]


@pytest.mark.parametrize(
    ("name", "most", "use"),
    [
        ("children", 1, lambda process: process.usage.check_children(1)),
        ("logits_bytes", 100, lambda process: process.usage.check_rows(101)),
        ("mcp_requests", 1, lambda process: [process.outside.tools.ask("x", "tools/list", "{}") for _ in range(2)]),
    ],
)
def test_so_it_is_with_what_is_only_checked(
    made: Callable[..., World], name: str, most: int, use: Callable[[Any], object]
):
    world = made(**{name: most})
    theirs, others = running(world, "acme"), running(world, "other")

    with pytest.raises(LimitExceeded, match=rf"{name} = {most} .*\[acme\.process\]"):
        use(theirs)
    use(others)


@pytest.mark.parametrize(("name", "most"), [("messages", 1), ("message_bytes", 8)])
def test_so_it_is_with_messages(made: Callable[..., World], name: str, most: int):
    world = made(**{name: most})
    answers: dict[str, list[Any]] = {}
    for tenant in ("acme", "other"):
        running(world, tenant)
        answers[tenant] = [world.deliver(Deliver(tenant, "x" * 5)) for _ in range(2)]
    world.run(0.1)

    first, second = [answer.error for [answer] in answers["acme"]]
    assert first is None
    assert second.code == "overloaded"
    assert second.info().retryable
    assert f"{name} = {most}" in second.message
    assert f"`{name}` of [acme.process] in the file `tenants`" in second.message
    assert [answer.error for [answer] in answers["other"]] == [None, None]


def test_so_it_is_with_the_rate_of_output(made: Callable[..., World]):
    world = made(output_rate=50)
    took: dict[str, float] = {}
    for tenant in ("acme", "other"):
        began = world.wires.now
        world.outcome(talks, pid=tenant, tenant=tenant)
        took[tenant] = world.wires.now - began

    assert took["other"] < 0.5
    assert took["acme"] > 2.0


def test_so_it_is_with_times_of_what_is_outside(made: Callable[..., World]):
    world = made(http_seconds=7.0, mcp_seconds=3.0)
    seconds = {
        tenant: running(world, tenant).outside._http.order("GET", "http://web/", [], b"", None, 0).seconds
        for tenant in ("acme", "other")
    }

    assert seconds == {"acme": 7.0, "other": ProcessLimits().http_seconds}
    assert world.runner.processes["acme"].outside.tools._limits.mcp_seconds == 3.0


def test_limits_begin_with_a_process_and_hold_for_all_of_the_tenant(made: Callable[..., World]):
    """A table is read when the runner starts; the tenant's limits are worked out when its first process begins."""
    world = made(tokens=5)

    first = running(world, "acme")
    world.start(forever, pid="again", tenant="acme")
    world.run(lambda: "again" in world.runner.processes)

    assert first.usage.limits is world.runner.processes["again"].usage.limits
    assert running(world, "other").usage.limits is world.limits
