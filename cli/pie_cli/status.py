"""`pie status`: how every service of the stack is."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict

import click
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.gateway import StatusReport

from pie_cli.paths import StackPaths
from pie_cli.probe import Probe
from pie_cli.state import ServiceStatus, StackState, running
from pie_cli.table import Cell, print_table

ASK_TIMEOUT = 2.0
NOT_RUNNING = 3
"""Exit status, as service managers use it."""
HEALTH_COLOURS = {"up": "green", "starting": "yellow", "stuck": "yellow", "waiting": "yellow"}


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


class Report(TypedDict):
    """All of `--json`. `supervisor` and `up_seconds` are 0 for a stack that is reached by PIE_ENDPOINT."""

    phase: str
    model: str
    http: str
    endpoint: str
    supervisor: int
    up_seconds: float
    services: list[Row]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show every service: process, health, what it runs on, load, where it listens. Exit status 3: not running.

    With PIE_ENDPOINT set, the stack behind that gateway is asked.
    """
    if endpoint := os.environ.get("PIE_ENDPOINT"):
        report = _remote(endpoint)
    else:
        state = running(StackPaths.default())
        if state is None:
            words = '{"phase": "down"}' if as_json else "Pie is not running: start it with `pie up`"
            click.echo(words, err=not as_json)
            sys.exit(NOT_RUNNING)
        report = _local(state)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print_table(report)


def _local(state: StackState) -> Report:
    """The supervisor's processes, and what kvstore knows of them; the gateway need not live."""
    members = ask_members(state)
    return Report(
        phase=state.phase,
        model=state.model,
        http=state.http,
        endpoint=state.endpoint,
        supervisor=state.supervisor,
        up_seconds=round(time.time() - state.started_at, 1),
        services=[_service_row(service, members) for service in state.services],
    )


def _remote(endpoint: str) -> Report:
    from pie_cli.connect import connected, run_async

    async def ask() -> StatusReport:
        async with connected() as client:
            return await client.status()

    found = run_async(ask())
    return Report(
        phase="ready",
        model=", ".join(model.name for model in found.models),
        http=found.http,
        endpoint=endpoint,
        supervisor=0,
        up_seconds=0.0,
        services=[_member_row(member) for member in found.members],
    )


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


def _service_row(service: ServiceStatus, members: Sequence[MemberInfo]) -> Row:
    member = next((m for m in members if m.name == service.name and m.pid == service.pid), None)
    row = _member_row(member or MemberInfo(service.kind, service.name, 0))
    row["pid"], row["restarts"], row["error"] = service.pid, service.restarts, service.error
    if service.state != "ready":
        row["health"] = service.state
    elif member is None:
        row["health"] = "unknown"
    return row


def _member_row(member: MemberInfo) -> Row:
    return Row(
        name=member.name,
        kind=member.kind,
        pid=member.pid,
        health=member.state,
        restarts=0,
        endpoint=member.endpoint,
        backend=str(member.info.get("backend", "")),
        info=dict(member.info),
        load=dict(member.stats),
        error="",
    )


def describe(facts: Mapping[str, str | int | float]) -> str:
    """The facts of a member that say what it is."""
    words = [str(facts[key]) for key in ("backend", "model", "dtype", "device", "http") if facts.get(key)]
    if tenants := facts.get("tenants"):
        words.append(f"only for {tenants}")
    return ", ".join(words)


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


def _print_table(report: Report) -> None:
    rows: list[list[Cell]] = []
    for row in report["services"]:
        health = row["health"]
        note = f"{health} ({row['restarts']} restarts)" if row["restarts"] else health
        rows.append(
            [
                row["name"],
                str(row["pid"] or "-"),
                (note, HEALTH_COLOURS.get(health, "red")),
                describe(row["info"]) or row["error"],
                load_words(row["kind"], row["load"]),
            ]
        )
    phase = "up" if report["phase"] == "ready" else report["phase"]
    click.echo(f"Pie is {phase} with {report['model']}")
    print_table(("SERVICE", "PID", "HEALTH", "RUNS ON", "LOAD"), rows)
    http = f"{report['http']}/v1" if report["http"] else "none"
    click.echo(f"HTTP     {http}\nclients  {report['endpoint']}")
