"""A tenant with a runner of its own, on a real stack: its programs and their children are there and nowhere else."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_stack import Stack, Stacks, eventually
from pie_wire.capabilities import Grants
from pie_wire.errors import Unavailable
from pie_wire.hub import Scope
from pie_wire.messages.gateway import Launch, ListProcesses, Terminate
from raw_link import Caller

LOCAL, ACME, GLOBEX = Scope(), Scope("acme", "ada"), Scope("globex", "bob")
IDLE = b"""
import asyncio

async def main():
    await asyncio.sleep(600)
"""
FAMILY = b"""
from inferlet import launch

async def main():
    await launch("e2e-idle").result()
"""
MANIFEST = '[package]\nname = "{}"\nversion = "1.0.0"\n[capabilities]\nchildren = true\n'


@pytest.fixture
def stack(stacks: Stacks, script: Path, tmp_path: Path) -> Stack:
    """runner-0 for all, runner-1 for acme; globex wants one of its own and has none."""
    table = tmp_path / "tenants.toml"
    table.write_text("[acme]\nown_runner = true\n[globex]\nown_runner = true\n")
    stack = stacks.get(
        "dedicated",
        f"scripted:{script}",
        runners_for=["acme"],
        PIE_GATEWAY_TENANTS=str(table),
        PIE_GATEWAY_QUEUE_TIMEOUT="8",
    )
    with stack.client() as client:
        client.install(IDLE, MANIFEST.format("e2e-idle"))
        client.install(FAMILY, MANIFEST.format("e2e-family"))
    return stack


@pytest.fixture
def caller(stack: Stack) -> Iterator[Caller]:
    with Caller(stack.endpoint) as made:
        yield made
        for scope in (LOCAL, ACME):
            for process in made.ask(ListProcesses(), scope=scope).processes:
                made.ask(Terminate(process.pid, "the test is over"), scope=scope)


def launch(caller: Caller, program: str, scope: Scope) -> None:
    message = Launch(secrets.token_hex(16), program, attach=False, allow=Grants(children=True))
    caller.ask(message, within=60.0, scope=scope)


def homes(caller: Caller, scope: Scope, count: int) -> set[str]:
    """Runners of the tenant's living processes, of which there are so many."""

    def look() -> list[str]:
        found = caller.ask(ListProcesses(), scope=scope).processes
        return [p.runner for p in found] if len(found) == count else []

    return set(eventually(f"{count} processes of {scope.tenant}", look))


@pytest.mark.slow
def test_each_is_where_it_may_be_also_after_a_death(stack: Stack, caller: Caller):
    for scope in (LOCAL, ACME, LOCAL, ACME):
        launch(caller, "e2e-family", scope)
    assert homes(caller, LOCAL, 4) == {"runner-0"}
    assert homes(caller, ACME, 4) == {"runner-1"}

    table = stack.pie("status").stdout
    assert [line.split()[0] for line in table.splitlines() if "only for acme" in line] == ["runner-1"]
    assert "only" not in stack.pie("ps").stdout, "the user of `pie` is no tenant with a runner of its own"

    with pytest.raises(Unavailable, match="own_runner"):
        launch(caller, "e2e-idle", GLOBEX)

    killed = stack.kill("runner-1")
    eventually("acme's processes are lost", lambda: not caller.ask(ListProcesses(), scope=ACME).processes)
    launch(caller, "e2e-family", ACME)
    assert homes(caller, ACME, 2) == {"runner-1"}, "it waited for the successor"
    assert homes(caller, LOCAL, 4) == {"runner-0"}
    stack.wait_restarted(killed)
