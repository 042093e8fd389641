"""`pie status`: how every service of the stack is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict

import click
from pie_wire.messages.common import MemberInfo

from pie_cli.paths import StackPaths
from pie_cli.probe import Probe
from pie_cli.state import ServiceStatus, StackState, running

ASK_TIMEOUT = 2.0
NOT_RUNNING = 3
"""Exit status, as service managers use it."""
HEALTH_COLOURS = {"up": "green", "starting": "yellow", "stuck": "yellow", "waiting": "yellow"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show every service: process, health, what it runs on, load, where it listens. Exit status 3: not running."""
    state = running(StackPaths.default())
    if state is None:
        click.echo('{"phase": "down"}' if as_json else "Pie is not running: start it with `pie up`", err=not as_json)
        sys.exit(NOT_RUNNING)
    members = ask_members(state)
    rows = [_row(service, members) for service in state.services]
    if as_json:
        report = {
            "phase": state.phase,
            "model": state.model,
            "http": state.http,
            "endpoint": state.endpoint,
            "supervisor": state.supervisor,
            "up_seconds": round(time.time() - state.started_at, 1),
            "services": rows,
        }
        click.echo(json.dumps(report, indent=2))
        return
    _print_table(state, rows)


def ask_members(state: StackState) -> list[MemberInfo]:
    """The member list as kvstore has it now; empty if it does not answer."""
    probe = Probe(state.kvstore)
    try:
        deadline = time.monotonic() + ASK_TIMEOUT
        while not probe.members and time.monotonic() < deadline:
            probe.poll(0.05, eager=True)
        return probe.members
    finally:
        probe.close()


class Row(TypedDict):
    """A service as `--json` shows it."""

    name: str
    kind: str
    pid: int
    health: str
    restarts: int
    endpoint: str
    backend: str
    info: dict[str, str | int | float]
    load: dict[str, str | int | float]
    error: str


def _row(service: ServiceStatus, members: Sequence[MemberInfo]) -> Row:
    member = next((m for m in members if m.name == service.name and m.pid == service.pid), None)
    health: str = service.state
    if service.state == "ready":
        health = member.state if member is not None else "unknown"
    return {
        "name": service.name,
        "kind": service.kind,
        "pid": service.pid,
        "health": health,
        "restarts": service.restarts,
        "endpoint": member.endpoint if member else "",
        "backend": str(member.info.get("backend", "")) if member else "",
        "info": dict(member.info) if member else {},
        "load": dict(member.stats) if member else {},
        "error": service.error,
    }


def describe(facts: Mapping[str, str | int | float]) -> str:
    """The facts of a member that say what it is."""
    return ", ".join(str(facts[key]) for key in ("backend", "model", "dtype", "device", "http") if facts.get(key))


def load_words(kind: str, load: Mapping[str, str | int | float]) -> str:
    """The figures of a service that a person looks for first; `--json` has all of them."""
    if not load:
        return ""
    match kind:
        case "engine":
            owned, total = load.get("pages_owned", 0), load.get("pages_total", 0)
            return f"{load.get('active', 0)} active of {load.get('contexts', 0)} contexts, {owned}/{total} pages owned"
        case "runner":
            return f"{load.get('live', 0)}/{load.get('capacity', 0)} programs, {load.get('lag_ms', 0)} ms lag"
        case "gateway":
            processes, queued = load.get("processes", 0), load.get("queued", 0)
            return f"{processes} processes, {queued} queued, {load.get('sessions', 0)} clients"
        case _:
            return ", ".join(f"{key} {value}" for key, value in load.items())


def _print_table(state: StackState, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("SERVICE", "PID", "HEALTH", "RUNS ON", "LOAD"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        health = row["health"]
        note = f"{health} ({row['restarts']} restarts)" if row["restarts"] else health
        table.add_row(
            row["name"],
            str(row["pid"] or "-"),
            Text(note, HEALTH_COLOURS.get(health, "red")),
            describe(row["info"]) or row["error"],
            load_words(row["kind"], row["load"]),
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Pie is {'up' if state.phase == 'ready' else state.phase} with {state.model}", highlight=False)
    console.print(table)
    console.print(f"HTTP     {state.http or 'none'}\nclients  {state.endpoint}")
